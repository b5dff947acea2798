//! Logs to stderr.

use crate::config::{ConfigError, Settings};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Others' logs that are of no use below this level unless a filter is given in full. openraft warns several times a second
/// of a master that does not answer, or does not store: a leader in three places, who stands for election in its core. Ours
/// tell that once.
const QUIET: &str = "openraft=warn,openraft::core::heartbeat=error,openraft::core::raft_core=error,\
                     openraft::replication=error,openraft::engine::handler::replication_handler=error,\
                     quinn=warn,rustls=warn";

/// The filter of a level or of a filter expression.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    let bare = level.parse::<tracing::Level>().is_ok();
    let text = if bare { format!("{level},{QUIET}") } else { level.to_owned() };
    EnvFilter::builder().parse(text).map_err(|e| e.to_string())
}

/// Begins to log: by `RUST_LOG` when it is set, else by the setting `log_level`.
pub fn init(settings: &Settings) -> Result<(), ConfigError> {
    let configured = settings.get_with("log_level", filter)?;
    let rust_log = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    let filter = match rust_log {
        None => configured,
        Some(text) => EnvFilter::builder().parse(&text).map_err(|e| ConfigError::Bad {
            key: "RUST_LOG".into(),
            value: text,
            source_of: crate::config::Source::Env("RUST_LOG"),
            cause: e.to_string(),
            want: "a filter such as mooseng_meta=debug,info, or nothing".into(),
        })?,
    };
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A second call, in a test, keeps the first one's logs.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_told_from_nonsense() {
        for good in ["info", "DEBUG", "mooseng_meta=debug,info", "off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("mooseng=loud").is_err());
        let quiet = filter("info").unwrap().to_string();
        for target in ["openraft=warn", "openraft::core::raft_core=error", "openraft::replication=error"] {
            assert!(quiet.contains(target), "{quiet}");
        }
        assert_eq!(
            filter("mooseng_meta=debug").unwrap().to_string(),
            "mooseng_meta=debug",
            "as it was given"
        );
    }
}
