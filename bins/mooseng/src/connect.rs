//! How the cluster is reached, from flags and environment.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use mooseng_client::{Client, ClientBuilder};
use mooseng_core::net::{Role, Transport};
use mooseng_net::identity::Identity;
use mooseng_support::{
    addr,
    node::{TransportKind, load_identity},
    trace::Traced,
    transport,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Longest wait for the end of a session.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// Client addresses of the masters, with commas between.
    #[arg(long, env = "MOOSENG_MASTER_ADDRS", value_name = "ADDRS", value_delimiter = ',', required = true)]
    masters: Vec<String>,
    /// Directory with ca.pem, node.pem and node.key of a client or an admin.
    #[arg(long, env = "MOOSENG_IDENTITY_DIR", value_name = "DIR", default_value = "/etc/mooseng/identity")]
    identity: PathBuf,
    /// quic, or tcp; what the cluster speaks.
    #[arg(long, env = "MOOSENG_TRANSPORT", value_name = "NAME", default_value = "quic")]
    transport: TransportKind,
    /// Longest wait for one call.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Connection {
    /// Who asks.
    pub(crate) fn identity(&self) -> Result<Identity> {
        load_identity(&self.identity)
    }

    /// The masters, as they were named.
    pub(crate) fn masters(&self) -> &[String] {
        &self.masters
    }

    /// A transport of its own.
    pub(crate) fn transport(&self) -> Result<Arc<dyn Transport>> {
        transport(self.transport, &self.identity()?, None)
    }

    /// Opens a session, as the superuser of the filesystem.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.builder()?.connect().await.context("no session was opened")
    }

    /// What a session is opened with.
    pub(crate) fn builder(&self) -> Result<ClientBuilder> {
        let masters = self.masters.iter().map(|m| addr::with_port(m.trim()).map_err(crate::exit::usage));
        let masters = masters.collect::<Result<Vec<_>>>().context("--masters")?;
        let identity = self.identity()?;
        let peer = identity.peer();
        ensure!(
            matches!(peer.role, Role::Client | Role::Admin),
            "{} is a {}'s certificate; a client's or an admin's is needed (--identity)",
            self.identity.display(),
            peer.role
        );
        Ok(Client::builder()
            .masters(masters)
            .transport(Traced::new(transport(self.transport, &identity, None)?))
            .seams(mooseng_host::host_seams())
            .name(peer.name)
            .host(addr::host_name())
            .deadline(self.timeout))
    }
}
