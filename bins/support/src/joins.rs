//! `POST /join`: where a new machine asks for its certificate. Open to everybody: what is asked
//! proves itself, nothing secret crosses, and what one caller may cost is bounded.

use crate::http::Endpoints;
use async_trait::async_trait;
use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use mooseng_core::{
    join::{JoinError, JoinRequest, Joined},
    limits::JOIN_BYTES_MAX,
    wire,
};
use std::time::Duration;

/// Joins answered at the same time. Each costs two signatures to verify and one to make.
pub(crate) const JOINS_MAX: usize = 16;
/// Wait for a request's bytes.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Wait for its answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Answers joins: a master.
#[async_trait]
pub trait Joins: Send + Sync + 'static {
    /// Answers one.
    async fn join(&self, request: JoinRequest) -> Result<Joined, JoinError>;
}

const fn status(e: &JoinError) -> StatusCode {
    match e {
        JoinError::NotLeader { .. } | JoinError::Busy(_) | JoinError::NoAuthority(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        JoinError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        JoinError::Malformed(_) | JoinError::Csr(_) => StatusCode::BAD_REQUEST,
        JoinError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::FORBIDDEN,
    }
}

pub(crate) async fn post(State(e): State<Endpoints>, body: Body) -> Response {
    let answer = answer(&e, body).await;
    let status = match &answer {
        Ok(_) => StatusCode::OK,
        Err(e) => {
            tracing::info!(error = %e, "a join was refused");
            status(e)
        }
    };
    (status, wire::encode(&answer)).into_response()
}

async fn answer(e: &Endpoints, body: Body) -> Result<Joined, JoinError> {
    let busy = |what: &str| JoinError::Busy(what.into());
    let bytes = tokio::time::timeout(ARRIVAL, to_bytes(body, JOIN_BYTES_MAX))
        .await
        .map_err(|_| busy("the request did not arrive in time"))?
        .map_err(|_| JoinError::TooLarge { limit: JOIN_BYTES_MAX as u64 })?;
    let joins = e.joins().ok_or_else(|| busy("this process is no master, or is starting or stopping"))?;
    let request = JoinRequest::decode(&bytes)?;
    let _room = e.join_room().try_acquire().map_err(|_| busy("too many join at once"))?;
    let answer = tokio::time::timeout(ANSWER, joins.join(request)).await;
    answer.unwrap_or_else(|_| Err(busy("no quorum of masters answered in time")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use mooseng_core::{
        ids::ClusterId,
        join::TokenId,
        net::{CertHash, PeerIdentity, Role},
    };
    use parking_lot::Mutex;
    use std::sync::Arc;

    struct Fake(Mutex<Vec<JoinRequest>>);

    #[async_trait]
    impl Joins for Fake {
        async fn join(&self, request: JoinRequest) -> Result<Joined, JoinError> {
            let used = JoinError::Used(request.token);
            self.0.lock().push(request);
            Err(used)
        }
    }

    fn endpoints() -> Endpoints {
        let cluster = ClusterId(Default::default());
        let (role, name, cert_hash) = (Role::Master, "m".into(), CertHash::default());
        let peer = PeerIdentity { cluster, role, node: 1, name, cert_hash };
        Endpoints::new(Arc::new(Metrics::new(&peer).unwrap()))
    }

    async fn ask(e: &Endpoints, body: Vec<u8>) -> (u16, Result<Joined, JoinError>) {
        let response = post(State(e.clone()), Body::from(body)).await;
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, wire::decode(&bytes).unwrap())
    }

    #[tokio::test]
    async fn what_is_posted_is_bounded_and_answered() {
        let (e, fake) = (endpoints(), Arc::new(Fake(Mutex::default())));
        let (token, cluster) = (TokenId([1; 32]), ClusterId(Default::default()));
        let csr = |bytes: usize| JoinRequest {
            format: mooseng_core::join::JOIN_FORMAT,
            cluster,
            token,
            csr: vec![0; bytes].into(),
            signature: Default::default(),
        };
        let request = wire::encode(&csr(9)).to_vec();
        let (status, answer) = ask(&e, request.clone()).await;
        assert!(status == 503 && matches!(answer, Err(JoinError::Busy(_))), "no master is here yet");
        e.serve_joins(fake.clone());
        assert_eq!(ask(&e, request.clone()).await, (403, Err(JoinError::Used(token))));
        assert_eq!(fake.0.lock().len(), 1);
        let limit = JOIN_BYTES_MAX as u64;
        assert_eq!(ask(&e, vec![1; JOIN_BYTES_MAX + 1]).await, (413, Err(JoinError::TooLarge { limit })));
        let (status, answer) = ask(&e, vec![1; JOIN_BYTES_MAX]).await;
        assert!(status == 400 && matches!(answer, Err(JoinError::Malformed(_))));
        let all = e.join_room().try_acquire_many(JOINS_MAX as u32).unwrap();
        assert_eq!(ask(&e, request.clone()).await.0, 503);
        drop(all);
        assert_eq!(ask(&e, request.clone()).await.0, 403);
        e.stopping();
        assert_eq!(ask(&e, request).await.0, 503);
        assert_eq!(fake.0.lock().len(), 2);
    }
}
