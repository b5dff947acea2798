use super::*;
use crate::keys;
use clap::{Args as _, Command};

/// Flags of a command line.
fn flags<R: Role>(args: &[&str]) -> Flags<R> {
    let command = Flags::<R>::augment_args(Command::new("test"));
    let all = std::iter::once("test").chain(args.iter().copied());
    Flags::from_arg_matches(&command.try_get_matches_from(all).unwrap()).unwrap()
}

fn load<R: Role>(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let env = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
    Settings::with_env(&flags::<R>(args), env)
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path.display().to_string())
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let (_dir, path) = file("listen_port = 3\nraft_port = 3\nmetrics_port = 3");
    let args = ["--config", &path, "--listen-port", "1"];
    let env = [("MOOSENG_LISTEN_PORT", "2"), ("MOOSENG_RAFT_PORT", "2")];
    let s = load::<keys::Master>(&args, &env).unwrap();
    let port = |key| s.get::<u16>(key).unwrap();
    assert_eq!((port("listen_port"), port("raft_port"), port("metrics_port")), (1, 2, 3));
    assert_eq!(s.get::<u64>("cache_size_mb").unwrap(), 64, "the default");
    let said = s.print(true);
    for line in [
        "listen_port = \"1\" # from a flag".to_owned(),
        "raft_port = \"2\" # from the environment variable MOOSENG_RAFT_PORT".to_owned(),
        format!("metrics_port = \"3\" # from the file {path}"),
        "cache_size_mb = \"64\" # from the default".to_owned(),
        "# node_id is not set".to_owned(),
    ] {
        assert!(said.lines().any(|l| l == line), "no {line} in\n{said}");
    }
    let (_dir, again) = file(&said);
    let s = load::<keys::Master>(&["--config", &again], &[]).unwrap();
    assert_eq!(s.get::<u16>("listen_port").unwrap(), 1, "what is printed can be given back");
}

#[test]
fn the_file_can_be_named_by_the_environment_and_empty_variables_count_for_nothing() {
    let (_dir, path) = file("data_dirs = [\"/a\", \"/b\"]\nmaster_addrs = \"m1:1, m2:2\"");
    let s = load::<keys::Chunkserver>(&[], &[("MOOSENG_CONFIG", &path), ("MOOSENG_DATA_DIRS", "")]).unwrap();
    assert_eq!(s.list("data_dirs"), ["/a", "/b"]);
    assert_eq!(s.list("master_addrs"), ["m1:1", "m2:2"]);
}

#[test]
fn historical_names_of_variables_are_known() {
    let s = load::<keys::Master>(&[], &[("MOOSENG_GRPC_PORT", "5"), ("MOOSENG_SERVER_ID", "2")]).unwrap();
    assert_eq!((s.get::<u16>("raft_port").unwrap(), s.get::<u64>("node_id").unwrap()), (5, 2));
    let both = [("MOOSENG_GRPC_PORT", "5"), ("MOOSENG_RAFT_PORT", "6")];
    assert_eq!(load::<keys::Master>(&[], &both).unwrap().get::<u16>("raft_port").unwrap(), 6);
}

#[test]
fn every_error_names_key_value_source_and_cure() {
    let (_dir, path) = file("listen_port = \"x\"");
    let from_file = load::<keys::Master>(&["--config", &path], &[]).unwrap();
    let from_env = load::<keys::Master>(&[], &[("MOOSENG_LISTEN_PORT", "70000")]).unwrap();
    let from_flag = load::<keys::Master>(&["--listen-port", "-"], &[]).unwrap();
    for (settings, value, source) in [
        (from_file, "x", format!("the file {path}")),
        (from_env, "70000", "the environment variable MOOSENG_LISTEN_PORT".into()),
        (from_flag, "-", "a flag".into()),
    ] {
        let said = settings.get::<u16>("listen_port").unwrap_err().to_string();
        let begin = format!("listen_port = \"{value}\" (from {source}) is wrong: ");
        assert!(said.starts_with(&begin) && said.contains("wanted: a port"), "{said}");
    }
    let s = load::<keys::Mount>(&[], &[]).unwrap();
    let said = s.get::<String>("master_addrs").unwrap_err().to_string();
    assert!(said.contains("--master-addrs") && said.contains("MOOSENG_MASTER_ADDRS"), "{said}");
}

#[test]
fn files_that_cannot_be_are_refused() {
    for (text, part) in [
        ("listen_prot = 1", "sets \"listen_prot\", which a master does not have; its keys are identity"),
        ("data_dirs = \"/a\"", "sets \"data_dirs\", which a master does not have"),
        ("listen_port = 1.5", "listen_port is a float"),
        ("[listen_port]\na = 1", "listen_port is a table"),
        ("listen_port =", "cannot be used"),
    ] {
        let (_dir, path) = file(text);
        let said = load::<keys::Master>(&["--config", &path], &[]).unwrap_err().to_string();
        assert!(said.contains(part) && said.contains(&path), "{text}: {said}");
    }
    let said = load::<keys::Master>(&["--config", "/nowhere/x.toml"], &[]).unwrap_err().to_string();
    assert!(said.contains("/nowhere/x.toml") && said.contains("No such file"), "{said}");
}

/// Each template sets nothing, and, with its comments taken away, every key once, to something
/// that is right.
fn template<R: Role>(name: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/configs").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(parse_file::<R>(&path, &text).unwrap(), BTreeMap::new(), "{name} sets something by itself");
    let bare: Vec<_> =
        text.lines().filter_map(|l| l.strip_prefix('#')).filter(|l| !l.starts_with(' ')).collect();
    let values = parse_file::<R>(&path, &bare.join("\n")).unwrap();
    for key in R::keys() {
        assert!(values.contains_key(key.name), "{name} has no line \"#{} = ...\"", key.name);
        if let Some(default) = key.default {
            assert_eq!(values[key.name], default, "{name} shows another default for {}", key.name);
        }
    }
}

#[test]
fn the_templates_show_every_key() {
    template::<keys::Master>("master.toml");
    template::<keys::Chunkserver>("chunkserver.toml");
    template::<keys::Mount>("client.toml");
    template::<keys::Dashboard>("dashboard.toml");
}

#[test]
fn rows_of_a_role_do_not_clash() {
    fn check<R: Role>() {
        let mut seen = std::collections::BTreeSet::new();
        for key in R::keys() {
            assert!(seen.insert(key.name), "{} twice in {}", key.name, R::NAME);
            assert!(key.env.iter().all(|e| e.starts_with("MOOSENG_")), "{}", key.name);
        }
    }
    check::<keys::Master>();
    check::<keys::Chunkserver>();
    check::<keys::Mount>();
    check::<keys::Dashboard>();
}
