//! `dashboard`: the web dashboard as a daemon.

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use mooseng_client::Client;
use mooseng_core::{health, net::Role};
use mooseng_dashboard::{Dashboard, Options, TOKEN_BYTES_MAX, Token, turn_away};
use mooseng_support::{
    addr,
    config::{ConfigError, Flags, Settings},
    daemon::{self, HttpPort, Parts, Service},
    http::Health,
    keys,
    node::{Common, bind_addr, master_addrs},
    ports,
};
use serde_json::json;
use std::{
    fs::File, io::Read as _, net::SocketAddr, os::unix::fs::MetadataExt as _, path::Path, sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::Mutex,
    task::{AbortHandle, JoinHandle},
};

/// Roles of the certificates that it takes. It changes nothing: a client's is enough.
const ROLES: &[Role] = &[Role::Client, Role::Admin];
/// Longest wait for one call: who waits for a page has gone by then.
const DEADLINE: Duration = Duration::from_secs(8);
/// Longest wait for the end of the session at the stop.
const SESSION_END: Duration = Duration::from_secs(5);
/// Between two tries to open the first session.
const AGAIN: Duration = Duration::from_secs(2);

/// A dashboard's own settings.
#[derive(Debug)]
struct Config {
    listen: SocketAddr,
    metrics: SocketAddr,
    token: Option<Token>,
    masters: Vec<String>,
}

impl Config {
    fn new(settings: &Settings) -> Result<Self> {
        let listen = bind_addr(settings, "listen_port")?;
        let token = match settings.text("token_file") {
            Some(path) => {
                Some(read_token(Path::new(path)).map_err(|e| settings.bad("token_file", format!("{e:#}")))?)
            }
            None => None,
        };
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(no_token(settings).into());
        }
        let metrics = bind_addr(settings, "metrics_port")?;
        Ok(Self { listen, metrics, token, masters: master_addrs(settings)? })
    }
}

fn no_token(settings: &Settings) -> ConfigError {
    let cause = "others can reach it there, and there is no token: give --token-file (MOOSENG_DASHBOARD_TOKEN_FILE) \
                 a file with one, or listen on 127.0.0.1";
    settings.bad("listen_addr", cause)
}

/// Reads the token from a file that only its owner can read.
fn read_token(path: &Path) -> Result<Token> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    ensure!(mode & 0o077 == 0, "its mode is {:04o}, others could read it: chmod 600", mode & 0o7777);
    let mut text = String::new();
    // One byte more than a token may have, so that a longer one is told as such.
    file.take(TOKEN_BYTES_MAX as u64 + 3).read_to_string(&mut text)?;
    Ok(Token::new(&text)?)
}

/// Judges settings and the identity as [`run`] would, and begins nothing.
pub(crate) fn check(flags: &Flags<keys::Dashboard>) -> Result<()> {
    let settings = Settings::load(flags)?;
    Config::new(&settings)?;
    Common::new(&settings, ROLES)?;
    Ok(())
}

/// Serves until it is told to stop.
pub(crate) fn run(flags: &Flags<keys::Dashboard>) -> Result<()> {
    let Some((settings, common)) = daemon::begin(flags, ROLES)? else { return Ok(()) };
    let config = Config::new(&settings)?;
    let http = [HttpPort { at: config.metrics, flag: "metrics-port" }];
    daemon::run(&common, &http, async |parts| {
        let served = Served::start(&config, &common, parts).await?;
        Ok(Arc::new(served) as Arc<dyn Service>)
    })
}

struct Served {
    client: Client,
    dashboard: Dashboard,
    task: Mutex<JoinHandle<Result<()>>>,
    abort: AbortHandle,
}

impl Served {
    async fn start(config: &Config, common: &Common, parts: Parts) -> Result<Self> {
        let explain = |e: std::io::Error| {
            anyhow::anyhow!(ports::explain(&e, ports::Kind::Tcp, config.listen, "listen-port"))
        };
        // Before the masters are waited for: a port that is taken is heard of at once, and who looks is told.
        let listener = TcpListener::bind(config.listen).await.map_err(explain)?;
        let listen = listener.local_addr().map_err(explain)?;
        let client = tokio::select! {
            biased;
            client = connect(config, common, &parts) => client,
            never = turn_away(&listener) => match never {},
        };
        let options = match &config.token {
            Some(token) => Options::default().with_token(token.clone()),
            None => Options::default(),
        };
        let dashboard = Dashboard::new(client.clone(), options);
        let serving = dashboard.clone();
        let task = tokio::spawn(async move { Ok(serving.serve(listener).await?) });
        tracing::info!("the dashboard is at http://{listen}/");
        let (abort, task) = (task.abort_handle(), Mutex::new(task));
        Ok(Self { client, dashboard, task, abort })
    }
}

/// Opens a session, as soon as the masters answer.
async fn connect(config: &Config, common: &Common, parts: &Parts) -> Client {
    loop {
        let client = Client::builder()
            .masters(config.masters.clone())
            .transport(parts.transport.clone())
            .seams(mooseng_host::host_seams())
            .name(format!("{} (dashboard)", common.peer.name))
            .host(addr::host_name())
            .deadline(DEADLINE)
            .connect()
            .await;
        match client {
            Ok(client) => return client,
            Err(e) => {
                tracing::warn!(error = %e, "no session with the masters ({}), it is tried again", config.masters.join(", "));
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[async_trait]
impl Service for Served {
    fn health(&self) -> Health {
        let ready = self.dashboard.is_answered();
        let problem = (!ready).then(health::master_unreachable);
        let status = problem.as_ref().map_or("ok", |p| p.code.name()).into();
        let details = json!({ "role": "dashboard", "problems": problem.as_slice() });
        Health { status, ready, live: true, details }
    }

    async fn stop(&self) -> Result<()> {
        self.abort.abort();
        self.client.clone().shutdown(SESSION_END).await.context("the session did not end well")
    }

    async fn ended(&self) -> Result<()> {
        let mut task = self.task.lock().await;
        (&mut *task).await.context("the pages' task died")?.context("the pages are not served any more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn a_token_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = format!("{:#}", read_token(&path).unwrap_err());
        assert!(said.contains("0640") && said.contains("chmod 600"), "{said}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_token(&path).unwrap().accepts("0123456789abcdef"));
        fs::write(&path, "short\n").unwrap();
        assert!(format!("{:#}", read_token(&path).unwrap_err()).contains("at least 16"));
        fs::write(&path, "x".repeat(TOKEN_BYTES_MAX + 1)).unwrap();
        assert!(format!("{:#}", read_token(&path).unwrap_err()).contains("at most"));
        assert!(read_token(&dir.path().join("none")).is_err());
    }
}
