//! `mooseng cluster`: the cluster's authority, and certificates for its nodes.

use crate::{exit::usage, join, masters};
use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use mooseng_core::{ids::ClusterId, join::Invite, net::Role};
use mooseng_net::identity::{AUTHORITY_DIR, ClusterCa};
use std::{
    fs,
    io::Write,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use uuid::Uuid;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes an authority, a cluster id, and an identity directory for each node.
    Init(InitArgs),
    /// Makes an identity directory for one more node, where the authority is.
    Issue(IssueArgs),
    /// Makes a one-time token with which a node joins a running cluster; needs an admin's identity.
    Token(join::TokenArgs),
    /// Makes this machine's identity directory, with a token that `token` printed.
    Join(join::JoinArgs),
    /// Adds a running master: it gets all that the others have, then votes. Needs an admin's identity.
    AddMaster(masters::AddArgs),
    /// Removes a master for good, dead or alive; one that leads hands over. Needs an admin's identity.
    RemoveMaster(masters::RemoveArgs),
    /// Makes another master the leader. Needs an admin's identity.
    TransferLeadership(masters::OneArgs),
}

#[derive(Args)]
pub(crate) struct InitArgs {
    /// A directory that does not exist yet, or is empty.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Masters: 1, 3, 5 or 7.
    #[arg(long, default_value_t = 3)]
    masters: u64,
    /// Chunkservers.
    #[arg(long, default_value_t = 3)]
    chunkservers: u64,
    /// Clients (mounts and programs).
    #[arg(long, default_value_t = 1)]
    clients: u64,
    /// How long the certificates are valid.
    #[arg(long, default_value = "10years", value_name = "TIME", value_parser = humantime::parse_duration)]
    validity: Duration,
    /// Masters get a copy of the authority, so that nodes can join by token. `false` keeps the CA key
    /// off them; nodes are then added with `cluster issue` only.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    joins: bool,
}

#[derive(Args)]
pub(crate) struct IssueArgs {
    /// Directory with ca.pem and ca.key.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// master, chunkserver, client or admin.
    #[arg(long)]
    role: Role,
    /// The node's number within its role; 0 for clients and admins.
    #[arg(long, value_name = "N", default_value_t = 0)]
    node: u64,
    /// Its name.
    #[arg(long)]
    name: String,
    /// The identity directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the certificate is valid.
    #[arg(long, default_value = "10years", value_name = "TIME", value_parser = humantime::parse_duration)]
    validity: Duration,
}

/// Nodes of a role that one call makes at most.
const NODES_MAX: u64 = 10_000;

fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    made.with_context(|| format!("cannot make {}; choose another directory", dir.display()))
}

pub(crate) fn init(args: &InitArgs, out: &mut impl Write) -> Result<()> {
    if !matches!(args.masters, 1 | 3 | 5 | 7) {
        return Err(usage(format!("{} masters: a quorum needs 1, 3, 5 or 7", args.masters)));
    }
    if args.chunkservers > NODES_MAX || args.clients > NODES_MAX {
        return Err(usage(format!(
            "at most {NODES_MAX} nodes of a role are made at once; use cluster issue"
        )));
    }
    let new = NewDir::begin(&args.dir).context(
        "a cluster is made in a directory of its own (nodes are added with `mooseng cluster token`, or \
         `mooseng cluster issue`)",
    )?;
    let cluster = ClusterId(Uuid::now_v7());
    let nodes = make_all(args, cluster, new.path())?;
    new.finish()?;
    tell(args, cluster, &nodes, out)
}

/// A directory that is made beside its place and renamed, so that it is there whole or not at all.
pub(crate) struct NewDir {
    new: PathBuf,
    place: PathBuf,
}

impl NewDir {
    /// Errors: the place is taken, or nothing can be made there.
    pub(crate) fn begin(place: &Path) -> Result<Self> {
        let free = fs::read_dir(place)
            .map_or_else(|e| e.kind() == std::io::ErrorKind::NotFound, |mut d| d.next().is_none());
        ensure!(free, "{} is there already: choose another directory", place.display());
        let mut new = place.as_os_str().to_owned();
        new.push(format!(".new-{}", std::process::id()));
        let new = PathBuf::from(new);
        make_dir(&new)?;
        Ok(Self { new, place: place.into() })
    }

    /// Where it is filled.
    pub(crate) fn path(&self) -> &Path {
        &self.new
    }

    /// Puts it in its place, durably.
    pub(crate) fn finish(self) -> Result<()> {
        let cannot = || format!("cannot make {}", self.place.display());
        let sync = |dir: &Path| fs::File::open(dir).and_then(|d| d.sync_all());
        sync(&self.new).with_context(cannot)?;
        fs::rename(&self.new, &self.place).with_context(cannot)?;
        let parent = self.place.parent().filter(|p| !p.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new("."))).with_context(cannot)
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        // Renamed, or of no use; what went wrong has been told.
        let _ = fs::remove_dir_all(&self.new);
    }
}

fn make_all(args: &InitArgs, cluster: ClusterId, dir: &Path) -> Result<Vec<String>> {
    let ca = ClusterCa::create(cluster)?;
    make_dir(&dir.join("ca"))?;
    ca.save(&dir.join("ca"))?;
    let numbered = |role: Role, n: u64| (1..=n).map(move |n| (role, n, format!("{role}-{n}")));
    let masters = numbered(Role::Master, args.masters);
    let chunkservers = numbered(Role::Chunkserver, args.chunkservers);
    // Clients are told apart by their certificates; they have no number.
    let clients = numbered(Role::Client, args.clients).map(|(role, _, name)| (role, 0, name));
    let admin = (Role::Admin, 0, "admin".to_owned());
    let mut names = Vec::new();
    for (role, node, name) in masters.chain(chunkservers).chain(clients).chain([admin]) {
        make_dir(&dir.join(&name))?;
        ca.issue(role, node, &name, args.validity)?.save(&dir.join(&name))?;
        if args.joins && role == Role::Master {
            let copy = dir.join(&name).join(AUTHORITY_DIR);
            make_dir(&copy)?;
            ca.save(&copy)?;
        }
        names.push(name);
    }
    Ok(names)
}

fn tell(args: &InitArgs, cluster: ClusterId, names: &[String], out: &mut impl Write) -> Result<()> {
    let dir = args.dir.display();
    writeln!(out, "cluster {cluster}")?;
    writeln!(out, "authority       {dir}/ca (keep ca.key safe: who has it decides who is a member)")?;
    if args.joins {
        let copies = "each master has a copy in its ca/, so that nodes can join by token";
        writeln!(out, "                {copies} (--joins false: none)")?;
    }
    for name in names {
        writeln!(out, "identity        {dir}/{name}")?;
    }
    writeln!(out, "\nCopy each directory to its node (the key must stay readable by its user only), then:")?;
    let peers: Vec<_> = (1..=args.masters).map(|n| format!("master-{n}:9422")).collect();
    let addrs: Vec<_> = (1..=args.masters).map(|n| format!("master-{n}:9421")).collect();
    let (peers, addrs) = (peers.join(","), addrs.join(","));
    writeln!(out, "  mooseng master --identity {dir}/master-1 --raft-peers {peers}")?;
    writeln!(out, "  mooseng chunkserver --identity {dir}/chunkserver-1 --master-addrs {addrs}")?;
    writeln!(out, "  mooseng status --identity {dir}/admin --masters {addrs}")?;
    Ok(())
}

pub(crate) fn issue(args: &IssueArgs, out: &mut impl Write) -> Result<()> {
    let invite = Invite { role: args.role, node: args.node, name: args.name.clone() };
    invite.check().map_err(usage)?;
    if !args.ca.join("ca.pem").exists() {
        let ca = args.ca.display();
        return Err(usage(format!(
            "no authority is in {ca}: give the directory `ca` that `mooseng cluster init` made"
        )));
    }
    let ca = ClusterCa::load(&args.ca)?;
    let identity = ca.issue(args.role, args.node, &args.name, args.validity)?;
    let new = NewDir::begin(&args.out)?;
    identity.save(new.path())?;
    new.finish()?;
    let (name, role, cluster) = (&args.name, args.role, ca.cluster());
    writeln!(out, "{} is the identity of {name}, a {role} of cluster {cluster}", args.out.display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_net::identity::Identity;
    use std::os::unix::fs::PermissionsExt as _;

    fn args(dir: &Path, masters: u64) -> InitArgs {
        let validity = Duration::from_secs(86_400);
        InitArgs { dir: dir.into(), masters, chunkservers: 2, clients: 1, validity, joins: true }
    }

    #[test]
    fn a_cluster_is_made_whole_once_and_grows() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("c");
        let mut said = Vec::new();
        init(&args(&dir, 3), &mut said).unwrap();
        let said = String::from_utf8(said).unwrap();
        for (name, role, node) in [
            ("master-3", Role::Master, 3),
            ("chunkserver-2", Role::Chunkserver, 2),
            ("client-1", Role::Client, 0),
            ("admin", Role::Admin, 0),
        ] {
            let peer = Identity::load(&dir.join(name)).unwrap().peer();
            assert_eq!((peer.role, peer.node, peer.name.as_str()), (role, node, name));
            assert!(said.contains(&format!("cluster {}", peer.cluster)), "{said}");
        }
        let again = format!("{:#}", init(&args(&dir, 3), &mut Vec::new()).unwrap_err());
        assert!(again.contains("is there already") && again.contains("cluster issue"), "{again}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing is left beside it");

        let copy = dir.join("master-2/ca");
        assert_eq!(ClusterCa::load(&copy).unwrap().hash(), ClusterCa::load(&dir.join("ca")).unwrap().hash());
        let mode = fs::metadata(copy.join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!dir.join("chunkserver-1/ca").exists() && !dir.join("admin/ca").exists());
        let apart = home.path().join("apart");
        init(&InitArgs { joins: false, ..args(&apart, 1) }, &mut Vec::new()).unwrap();
        assert!(!apart.join("master-1/ca").exists() && apart.join("ca/ca.key").exists());
        fs::remove_dir_all(&apart).unwrap();

        let more = |role, node, out: &str| IssueArgs {
            ca: dir.join("ca"),
            role,
            node,
            name: "more".into(),
            out: dir.join(out),
            validity: Duration::from_secs(86_400),
        };
        issue(&more(Role::Chunkserver, 3, "more"), &mut Vec::new()).unwrap();
        assert_eq!(Identity::load(&dir.join("more")).unwrap().peer().node, 3);
        for (role, node) in [(Role::Chunkserver, 0), (Role::Client, 1)] {
            let e = issue(&more(role, node, "never"), &mut Vec::new()).unwrap_err();
            assert_eq!(crate::exit::code(&e), 2, "{e}");
        }
    }

    #[test]
    fn a_number_of_masters_without_quorum_is_refused_and_nothing_is_made() {
        let home = tempfile::tempdir().unwrap();
        let e = init(&args(&home.path().join("c"), 2), &mut Vec::new()).unwrap_err();
        assert_eq!(crate::exit::code(&e), 2);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
