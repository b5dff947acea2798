//! Verbs over a whole cluster in memory, with command lines as people type them.

use crate::*;
use mooseng_client::{Client, Filesystem, embedded::Cluster};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

pub(crate) mod looks;

struct Fixture {
    cluster: Cluster,
    client: Client,
    fs: Filesystem,
    here: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::of(1).await
    }

    /// With so many masters.
    async fn of(masters: u64) -> Self {
        let cluster = Cluster::builder().masters(masters).chunkservers(2).start().await.unwrap();
        let client = cluster.client().await.unwrap();
        let fs = client.filesystem();
        Self { cluster, client, fs, here: tempfile::tempdir().unwrap() }
    }

    /// Runs a verb; `@` stands for the local directory.
    async fn run(&self, line: &str) -> anyhow::Result<String> {
        let line = line.replace('@', self.here.path().to_str().unwrap());
        let args = ["mooseng"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(args.chain(["--masters", "m1:1"]))?;
        let Verb::Client(verb) = cli.verb else { panic!("{line} needs no cluster") };
        let mut out = Vec::new();
        run_on(&self.client, &verb, &Default::default(), &mut out).await?;
        Ok(String::from_utf8(out)?)
    }

    async fn says(&self, line: &str) -> String {
        self.run(line).await.unwrap_or_else(|e| panic!("{line}: {e:#}"))
    }

    /// Exit code and message of a verb that fails.
    async fn fails(&self, line: &str) -> (u8, String) {
        let e = self.run(line).await.expect_err(line);
        (exit::code(&e), format!("{e:#}"))
    }

    async fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.says(line).await).unwrap()
    }

    fn local(&self, path: &str) -> std::path::PathBuf {
        self.here.path().join(path)
    }

    async fn names(&self, dir: &str) -> Vec<String> {
        self.says(&format!("ls -r {dir}")).await.lines().map(str::to_owned).collect()
    }
}

/// What `look` finds, once it does; looked for again and again, for two minutes at most.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(120), found).await;
    found.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Bytes that differ from place to place.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

fn make(path: &Path, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_in_and_comes_out_equal() {
    let f = Fixture::new().await;
    let big = bytes(3_000_001);
    make(&f.local("in/a.txt"), b"small");
    make(&f.local("in/deep/er/big"), &big);
    make(&f.local("in/empty"), b"");
    fs::create_dir(f.local("in/nothing")).unwrap();
    fs::set_permissions(f.local("in/a.txt"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("deep/er/big", f.local("in/link")).unwrap();

    f.says("mkdir /dst").await;
    f.says("put -r @/in /dst").await;
    let wanted = ["a.txt", "deep", "deep/er", "deep/er/big", "empty", "link", "nothing"];
    assert_eq!(f.names("/dst/in").await, wanted.map(|n| format!("/dst/in/{n}")));
    assert_eq!(f.fs.read("/dst/in/link").await.unwrap(), big, "the link leads somewhere");
    assert_eq!(f.fs.metadata("/dst/in/a.txt").await.unwrap().mode, 0o750);

    f.says("cp -r /dst/in /copy").await;
    f.says("get -r /copy @/out").await;
    assert_eq!(fs::read(f.local("out/deep/er/big")).unwrap(), big);
    assert_eq!(fs::read(f.local("out/empty")).unwrap(), b"");
    assert_eq!(fs::read_link(f.local("out/link")).unwrap(), Path::new("deep/er/big"));
    assert_eq!(fs::metadata(f.local("out/a.txt")).unwrap().permissions().mode() & 0o777, 0o750);
    assert!(f.local("out/nothing").is_dir());
    // A second time over what is there.
    f.says("put -r @/in /dst").await;
    f.says("get -r /copy @/out").await;
    assert_eq!(fs::read(f.local("out/copy/a.txt")).unwrap(), b"small", "a directory takes it by its name");
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_replaces_whole_or_not_at_all() {
    let f = Fixture::new().await;
    f.fs.write("/old", "old content").await.unwrap();
    let broken = async_stream::stream! {
        yield Ok(bytes::Bytes::from(bytes(2_000_000)));
        // What readers see while it is under way.
        yield Err(anyhow::anyhow!("the source broke"));
    };
    let e =
        tree::write_cluster((&f.fs, &Default::default()), "/old", 0o644, broken, |_| ()).await.unwrap_err();
    assert_eq!(format!("{e:#}"), "/old: the source broke");
    assert_eq!(f.fs.read("/old").await.unwrap(), "old content");
    assert_eq!(f.names("/").await, ["/old"], "nothing is left beside it");

    let broken = futures::stream::iter([Ok(bytes::Bytes::from("x")), Err(anyhow::anyhow!("broke"))]);
    make(&f.local("old"), b"old");
    tree::write_local(&Default::default(), &f.local("old"), 0o600, broken, |_| ()).await.unwrap_err();
    assert_eq!(fs::read(f.local("old")).unwrap(), b"old");
    assert_eq!(fs::read_dir(f.here.path()).unwrap().count(), 1, "nothing is left beside it");
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing() {
    let f = Fixture::new().await;
    f.fs.write("/src", "content").await.unwrap();
    let (begun, first) = tokio::sync::oneshot::channel();
    let (begun_here, first_here) = tokio::sync::oneshot::channel();
    let stuck = |begun: tokio::sync::oneshot::Sender<()>| {
        async_stream::stream! {
            yield Ok(bytes::Bytes::from(bytes(100_000)));
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    };
    let (local, parts) = (f.local("new"), tree::Parts::default());
    let mut work = Box::pin(async {
        let there = tree::write_cluster((&f.fs, &parts), "/new", 0o644, stuck(begun), |_| ());
        let here = tree::write_local(&parts, &local, 0o600, stuck(begun_here), |_| ());
        let _ = tokio::join!(there, here);
    });
    tokio::select! {
        () = &mut work => panic!("it cannot end"),
        _ = async { (first.await.unwrap(), first_here.await.unwrap()) } => {}
    }
    assert_eq!(f.names("/").await.len(), 2, "a part is there");
    parts.give_up(&f.fs, work).await;
    assert_eq!(f.names("/").await, ["/src"]);
    assert_eq!(fs::read_dir(f.here.path()).unwrap().count(), 0);
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_shown_moved_and_removed() {
    let f = Fixture::new().await;
    f.says("mkdir -p /a/b /a/c").await;
    f.fs.write("/a/f", "hello ").await.unwrap();
    f.fs.write("/a/g", "world").await.unwrap();
    assert_eq!(f.says("cat /a/f /a/g").await, "hello world");
    assert_eq!(f.says("get /a/f -").await, "hello ");
    assert_eq!(f.says("ls /a").await, "b\nc\nf\ng\n");
    let long = f.says("ls -l /a").await;
    let line = long.lines().last().unwrap();
    assert!(line.starts_with("-rw-r--r--") && line.contains(" 5 B ") && line.ends_with(" g"), "{long}");

    let json = f.json("ls -o json /a/f").await;
    assert_eq!((&json["schema"], &json["items"][0]["size"]), (&"mooseng.files/1".into(), &6.into()));
    assert_eq!(f.says("ls -o jsonl /a").await.lines().count(), 4);
    assert!(f.says("stat /a/f").await.contains("size      6 B (6 bytes"));
    let json = f.json("du -o json /a").await;
    assert_eq!((&json["items"][0]["bytes"], &json["items"][0]["files"]), (&11.into(), &2.into()));

    f.says("mv /a/f /a/b").await;
    f.says("mv /a/g /a/b/f").await;
    assert_eq!(f.says("cat /a/b/f").await, "world", "moved into the directory, then replaced");
    f.says("rm /a/b/f").await;
    f.says("rm -f /a/b/f").await;
    f.fs.write("/a/b/f", "kept").await.unwrap();
    assert_eq!(f.fails("rm /a/b/f /a/none").await.0, 3);
    assert_eq!(f.says("cat /a/b/f").await, "kept", "all is looked at before anything is removed");
    f.says("rm -rf --yes /a/b /a/b/f").await;
    f.says("rm -r --yes /a").await;
    assert_eq!(f.says("ls").await, "");
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_says_how_many_copies_there_are() {
    let f = Fixture::new().await;
    f.says("mkdir --copies 1 /one").await;
    f.says("mkdir /one/below /two").await;
    for (dir, copies) in [("/one", 1), ("/one/below", 1), ("/two", 2)] {
        let path = format!("{dir}/f");
        f.fs.write(&path, bytes(20_000)).await.unwrap();
        let chunks = f.fs.chunks(&path).await.unwrap();
        assert_eq!((chunks[0].wanted, chunks[0].replicas.len()), (copies, usize::from(copies)), "{path}");
    }
    f.says("mkdir -p --copies 2 /one").await;
    f.fs.write("/one/g", bytes(20_000)).await.unwrap();
    assert_eq!(f.fs.chunks("/one/g").await.unwrap()[0].wanted, 2);
    for no in ["0", "10"] {
        let e = f.run(&format!("mkdir --copies {no} /none")).await.unwrap_err().to_string();
        assert!(e.contains("1..=9"), "{e}");
    }
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_codes_and_name_what_they_are_about() {
    let f = Fixture::new().await;
    f.says("mkdir -p /d/e").await;
    f.fs.write("/f", "x").await.unwrap();
    make(&f.local("t/x"), b"x");
    for (line, code, part) in [
        ("cat /none", 3, "/none"),
        ("stat /none", 3, "/none"),
        ("get /none @/x", 3, "/none"),
        ("put @/none /x", 3, "none"),
        ("rm /none", 3, "/none"),
        ("mkdir /d", 1, "/d"),
        ("rm /d", 2, "use -r"),
        ("rm -r /", 2, "name what is below"),
        ("rm -r /d/..", 2, "name what is below"),
        ("put @/t /t", 2, "use -r"),
        ("get /d @/x", 2, "use -r"),
        ("cp /d /e", 2, "use -r"),
        ("cp -r /d /d/e", 2, "below it"),
        ("cp /f /f", 2, "itself"),
        ("put @/t/x @/t/x /f", 2, "no directory"),
        ("info /d", 2, "only files have chunks"),
        ("bench --dir /d", 1, "choose another --dir"),
    ] {
        let (got, said) = f.fails(line).await;
        assert!(got == code && said.contains(part), "{line}: {got} {said}");
    }
    assert_eq!(f.names("/").await, ["/d", "/d/e", "/f"], "nothing was changed");
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_and_a_files_chunks_are_told() {
    let f = Fixture::new().await;
    f.fs.write("/small", "x").await.unwrap();
    f.fs.write("/large", bytes(70 << 20)).await.unwrap();
    let status = f.says("status").await;
    for part in ["health    healthy", "2 of 2 with all copies", "leader", "alive"] {
        assert!(status.contains(part), "no {part} in\n{status}");
    }
    let json = f.json("status -o json").await;
    assert_eq!(json["chunkservers"].as_array().unwrap().len(), 2);
    assert!(f.says("info /small").await.contains("inside the inode"));
    let json = f.json("info -o json /large").await;
    assert_eq!(json["chunks"].as_array().unwrap().len(), 2);
    assert_eq!(json["chunks"][1]["replicas"][1]["state"], "good");
    assert_eq!(f.says("info /large").await.lines().count(), 2 + 4, "a head, and two replicas of two chunks");
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_measures_and_leaves_nothing() {
    let f = Fixture::new().await;
    let line = "bench --size 3MiB --files 20 --file-size 10KiB -o json";
    let json = f.json(line).await;
    let phases = json["items"].as_array().unwrap();
    looks::pinned("bench", &json);
    assert_eq!(phases.len(), 7);
    assert_eq!((&phases[0]["bytes"], &phases[2]["operations"]), (&(3 << 20).into(), &20.into()));
    assert_eq!(f.says("ls").await, "");
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_looked_after_is_told() {
    let f = Fixture::new().await;
    f.fs.write("/large", bytes(200_000)).await.unwrap();
    let json = f.json("gc -o json").await;
    assert_eq!((&json["schema"], &json["items"][1]["unknown"]), (&"mooseng.gc/1".into(), &0.into()));
    assert!(f.says("gc").await.contains("kept for 1day"));
    let (code, said) = f.fails("drain 9").await;
    assert!(code == 2 && said.contains("no chunkserver"), "{code} {said}");
    assert!(f.says("drain 2").await.contains("is being emptied: 1 chunks are left"));
    let json = f.json("status -o json").await;
    assert_eq!(json["draining"][0]["chunks_left"], 1, "there is no third server: {json}");
    looks::pinned("status-draining", &looks::part(&json, &["schema", "draining"]));
    let json = f.json("drain 2 -o json").await;
    assert_eq!((&json["server"], &json["chunks_left"]), (&2.into(), &1.into()), "{json}");
    assert!(f.says("status").await.contains("drain     chunkserver 2"));
    assert_eq!(f.says("drain 2 --stop").await, "chunkserver 2 gets copies\n");
    let (code, said) = f.fails("gc --allow 9 --yes").await;
    assert!(code == 2 && said.contains("chunkserver 9"), "{code} {said}");
    let said = f.says("status").await;
    assert!(said.contains("health    healthy") && !said.contains("mooseng gc"), "{said}");

    // Servers tell how their scrubs stand every few seconds.
    until("all disks are told", async || {
        let json = f.json("scrub -o json").await;
        (json["items"].as_array().unwrap().len() == 4).then_some(())
    })
    .await;
    assert!(f.says("scrub").await.contains("between rounds"));
    let after = f.says("scrub --now").await;
    assert!(!after.contains("asked for") && after.lines().count() == 5, "{after}");
    looks::pinned("scrub", &f.json("scrub -o json").await);
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_emptied_and_its_copies_are_on_another() {
    let f = Fixture::new().await;
    for n in 0..6 {
        f.fs.write(&format!("/{n}"), bytes(20_000)).await.unwrap();
    }
    let (code, said) = f.fails("drain 2 --disk /nowhere").await;
    assert!(code == 2 && said.contains("nothing was changed"), "{code} {said}");
    let (code, said) = f.fails("drain 2 --disk 0123456789abcdef").await;
    assert!(code == 2 && said.contains("has no disk 0123456789abcdef; it has "), "{code} {said}");
    let (code, said) = f.fails("drain 9 --disk 0123456789abcdef").await;
    assert!(code == 2 && said.contains("no chunkserver"), "{code} {said}");
    // Servers tell what is on their disks with the next heartbeat.
    let id = until("all copies are told", async || {
        let json = f.json("status -o json").await;
        let disks = json["chunkservers"][1]["disks"].as_array().unwrap();
        let all = disks.iter().map(|d| d["chunks"].as_u64().unwrap()).sum::<u64>() == 6;
        let full = disks.iter().max_by_key(|d| d["chunks"].as_u64()).unwrap();
        all.then(|| full["id"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(f.says("status").await.contains(&id), "people see the name");
    let said = f.says(&format!("drain 2 --disk {id}")).await;
    assert!(said.contains(&id) && said.contains("is to be emptied"), "{said}");
    let json = until("it is empty", async || {
        let json = f.json("status -o json").await;
        let d = &json["draining_disks"][0];
        assert_eq!((&d["server"], &d["disk"]), (&2.into(), &id.as_str().into()), "{json}");
        (d["safe_to_take_away"] == true).then_some(json)
    })
    .await;
    looks::pinned("status-draining-disk", &looks::part(&json, &["schema", "draining_disks"]));
    let told = f.json(&format!("drain 2 --disk {id} -o json")).await;
    assert_eq!((&told["disk"], &told["safe_to_take_away"]), (&id.as_str().into(), &true.into()), "{told}");
    let disks = json["chunkservers"][1]["disks"].as_array().unwrap();
    let of = |d: &serde_json::Value| (d["id"] == id, d["chunks"].as_u64().unwrap(), d["drains"] == true);
    let mut all: Vec<_> = disks.iter().map(of).collect();
    all.sort_unstable();
    assert_eq!(all, [(false, 6, false), (true, 0, true)], "on the other disk of the same server");
    for part in ["is empty: it is safe to take away", "empty, may go"] {
        assert!(f.says("status").await.contains(part), "{part}");
    }
    until("it is healthy", async || f.says("status").await.contains("health    healthy").then_some(())).await;
    // The last disk that takes copies stays.
    let other = disks.iter().find(|d| d["id"] != id).unwrap()["id"].as_str().unwrap();
    let (code, said) = f.fails(&format!("drain 2 --disk {other}")).await;
    assert!(code == 2 && said.contains("no room elsewhere"), "{code} {said}");
    let said = f.says(&format!("drain 2 --disk {id} --stop")).await;
    assert_eq!(said, format!("disk {id} of chunkserver 2 gets copies\n"));
    let (code, said) = f.fails(&format!("drain 2 --disk {id} --stop")).await;
    assert!(code == 2 && said.contains("is not being emptied"), "{code} {said}");
    for n in 0..6 {
        assert_eq!(f.fs.read(&format!("/{n}")).await.unwrap(), bytes(20_000));
    }
    f.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fsck_tells_what_is_wrong_and_how_bad_it_is() {
    let mut f = Fixture::new().await;
    f.says("mkdir /d").await;
    f.fs.write("/d/two", bytes(200_000)).await.unwrap();
    f.says("mkdir --copies 1 /one").await;
    for n in 0..6 {
        f.fs.write(&format!("/one/f{n}"), bytes(20_000)).await.unwrap();
    }
    assert!(f.says("fsck").await.contains("7 chunks and 8 copies compared, 0 changing: 0 unreadable"));
    let json = f.json("fsck -o json").await;
    assert_eq!((&json["schema"], &json["findings"]), (&"mooseng.fsck/1".into(), &serde_json::json!([])));
    // One server dies: what it alone has cannot be read, the rest is short of a copy.
    let place = f.fs.chunks("/one/f0").await.unwrap()[0].replicas[0].place.server.get();
    f.cluster.kill_chunkserver(place as usize - 1);
    let mut out = Vec::new();
    let args = ["mooseng", "fsck", "-o", "json", "--masters", "m1:1"];
    let Verb::Client(verb) = Cli::try_parse_from(args).unwrap().verb else { panic!("it is a client's") };
    let e = run_on(&f.client, &verb, &Default::default(), &mut out).await.unwrap_err();
    assert_eq!(exit::code(&e), 7, "{e:#}");
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    looks::pinned("fsck-findings", &json);
    assert!(json["sum"]["unreadable"].as_u64().unwrap() >= 1, "{json}");
    assert_eq!(json["sum"]["short"], 1, "{json}");
    let findings = json["findings"].as_array().unwrap();
    let f0 = findings.iter().find(|x| x["path"] == "/one/f0").unwrap();
    assert_eq!((&f0["copies"][0]["state"], &f0["copies"][0]["server"]), (&"silent".into(), &place.into()));
    f.says("rm -r -y /one").await;
    assert_eq!(f.fails("fsck").await.0, 8, "nothing is lost any more");
    f.cluster.shutdown().await;
}
