//! Join tokens: making them for admins, and certificates for who has one.

use super::{Inner, MasterService, internal};
use crate::{state::check_token, store::*};
use mooseng_core::{
    context::CallContext,
    error::MetaError,
    ids::MasterId,
    join::{Authority, Invite, JoinError, JoinRequest, Joined, sha256},
    limits::{CERT_VALIDITY_MAX_SECS, TOKEN_LIFETIME_MAX_SECS},
    meta::*,
    net::Role,
};
use std::time::Duration;

/// Wait for the entry of one join.
const COMMIT: Duration = Duration::from_secs(10);

fn refused(e: MetaError) -> JoinError {
    match e {
        MetaError::Join(e) => e,
        MetaError::NotLeader { leader } => JoinError::NotLeader { leader: leader.map(|(_, at)| at) },
        e if e.is_retryable() => JoinError::Busy(e.to_string()),
        e => JoinError::Internal(e.to_string()),
    }
}

fn within(what: &str, secs: u64, max: u64) -> Result<(), JoinError> {
    if (1..=max).contains(&secs) {
        return Ok(());
    }
    Err(JoinError::Invalid(format!("{what} of {secs} s is not within 1 to {max} s")))
}

impl MasterService {
    /// Answers a join, from whoever: the request itself proves that it may be answered.
    ///
    /// Promise: a token gives certificates for one key. A repeat of the same request gets one again.
    /// Cancellation: leaves open whether the token is used; the same request may be repeated.
    /// Errors: [`JoinError::outcome`] tells whether the token may be used up.
    pub async fn join(&self, request: &JoinRequest) -> Result<Joined, JoinError> {
        self.0.join(request).await
    }
}

impl Inner {
    fn authority(&self) -> Result<&dyn Authority, JoinError> {
        self.authority.as_deref().ok_or(JoinError::NoAuthority(self.id))
    }

    pub(super) async fn create_token(
        &self,
        cx: &CallContext,
        r: CreateToken,
    ) -> Result<CreatedToken, MetaError> {
        // A token that nobody could honour is not made.
        self.authority()?;
        r.invite.check().map_err(JoinError::Invalid)?;
        within("a lifetime", r.lifetime_secs, TOKEN_LIFETIME_MAX_SECS)?;
        within("a validity", r.validity_secs, CERT_VALIDITY_MAX_SECS)?;
        if !r.replace {
            self.check_free(&r.invite)?;
        }
        let command = Command::TokenMade {
            token: r.token,
            invite: r.invite,
            lifetime_secs: r.lifetime_secs,
            validity_secs: r.validity_secs,
            replace: r.replace,
        };
        let Applied::Token(made) = self.propose(command, cx.budget).await? else {
            return Err(internal("making a token answered something else"));
        };
        let promise = made?;
        tracing::info!(token = %r.token, invite = %promise.invite, "a join token was made");
        let status = self.raft.status();
        let masters = status.voters.iter().chain(&status.learners);
        let masters = masters.map(|m| m.client_addr.clone()).collect();
        Ok(CreatedToken { expires: promise.expires, masters })
    }

    /// Refuses the number of a node that the cluster has.
    fn check_free(&self, invite: &Invite) -> Result<(), MetaError> {
        let taken = match invite.role {
            Role::Master => {
                let (id, status) = (MasterId(invite.node), self.raft.status());
                status.voters.iter().chain(&status.learners).any(|m| m.id == id)
            }
            Role::Chunkserver => {
                self.view()?.get(Table::Server, &key(invite.node)).map_err(internal)?.is_some()
            }
            Role::Client | Role::Admin => false,
        };
        if taken {
            let cause = format!("the cluster has a {} of number {}", invite.role, invite.node);
            return Err(JoinError::Clash(cause).into());
        }
        Ok(())
    }

    async fn join(&self, request: &JoinRequest) -> Result<Joined, JoinError> {
        if request.cluster != self.cluster {
            return Err(JoinError::Foreign { token: request.cluster, here: self.cluster });
        }
        self.lead().map_err(refused)?;
        let authority = self.authority()?;
        let (token, csr) = (request.token, sha256(&request.csr));
        let known = self.view().map_err(refused)?;
        let found = check_token(&known, self.wall(), token, csr).map_err(|e| refused(internal(e)))??;
        drop(known);
        // A stranger's request has ended before it costs a verification.
        request.verify()?;
        authority.check(&request.csr)?;
        let promise = if found.used == Some(csr) {
            // Committed long ago: a repeat costs the log nothing.
            found.promise
        } else {
            match self.propose(Command::TokenUsed { token, csr }, COMMIT).await.map_err(refused)? {
                Applied::Token(promise) => promise?,
                other => return Err(JoinError::Internal(format!("using a token answered {other:?}"))),
            }
        };
        let joined = authority.sign(&request.csr, &promise)?;
        tracing::info!(%token, invite = %promise.invite, "a certificate was signed for a node that joins");
        Ok(joined)
    }
}
