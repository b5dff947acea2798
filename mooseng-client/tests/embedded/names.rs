//! Names and paths that cannot be are refused with a clear error, and nothing is changed.

use futures::StreamExt as _;
use mooseng_client::{Filesystem, embedded::Cluster};
use mooseng_core::{
    error::Errno::{self, *},
    meta::Totals,
};

async fn picture(fs: &Filesystem) -> (Totals, Vec<String>) {
    let names = fs.read_dir("/").map(|e| e.unwrap().name.to_string());
    (fs.totals("/").await.unwrap(), names.collect().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_paths_are_refused_and_change_nothing() {
    let cluster = Cluster::builder().masters(1).chunkservers(2).start().await.unwrap();
    let fs = cluster.client().await.unwrap().filesystem();
    fs.create_dir("/d").await.unwrap();
    fs.write("/d/f", "kept").await.unwrap();
    fs.write("/f", "kept").await.unwrap();
    let long = format!("/{}", "n".repeat(256));
    let long_inside = format!("/d/{}/x", "n".repeat(256));
    // Path, what making something there answers, what looking at it answers.
    let table: &[(&str, Errno, Errno)] = &[
        ("", EINVAL, ENOENT),
        (&long, ENAMETOOLONG, ENAMETOOLONG),
        (&long_inside, ENAMETOOLONG, ENAMETOOLONG),
        ("/a\0b", EINVAL, EINVAL),
        ("/a\0b/c", EINVAL, EINVAL),
        ("/d/a\0", EINVAL, EINVAL),
        ("/nothing/f", ENOENT, ENOENT),
        ("/f/below", ENOTDIR, ENOTDIR),
    ];
    let before = picture(&fs).await;
    for (path, making, looking) in table {
        let says = |what: &str, errno: Errno, wanted: Errno| {
            assert_eq!(errno, wanted, "{what} {path:?}");
        };
        says("create", fs.create(path).await.unwrap_err().errno(), *making);
        says("write", fs.write(path, "x").await.unwrap_err().errno(), *making);
        says("create_dir", fs.create_dir(path).await.unwrap_err().errno(), *making);
        says("symlink", fs.symlink("/f", path).await.unwrap_err().errno(), *making);
        says("hard_link", fs.hard_link("/f", path).await.unwrap_err().errno(), *making);
        says("rename to", fs.rename("/f", path).await.unwrap_err().errno(), *making);
        says("rename from", fs.rename(path, "/g").await.unwrap_err().errno(), *making);
        says("remove_file", fs.remove_file(path).await.unwrap_err().errno(), *making);
        says("remove_dir", fs.remove_dir(path).await.unwrap_err().errno(), *making);
        says("remove_dir_all", fs.remove_dir_all(path).await.unwrap_err().errno(), *making);
        says("metadata", fs.metadata(path).await.unwrap_err().errno(), *looking);
        says("open", fs.open(path).await.unwrap_err().errno(), *looking);
        says("read_dir", fs.read_dir(path).next().await.unwrap().unwrap_err().errno(), *looking);
    }
    for path in ["/d/..", "..", "/", ".", "/d/."] {
        for (what, e) in [
            ("create", fs.create(path).await.map(drop)),
            ("create_dir", fs.create_dir(path).await),
            ("rename from", fs.rename(path, "/g").await),
            ("remove_dir", fs.remove_dir(path).await),
            ("remove_dir_all", fs.remove_dir_all(path).await),
        ] {
            assert_eq!(e.unwrap_err().errno(), EINVAL, "{what} {path:?}");
        }
    }
    assert!(picture(&fs).await == before, "nothing was changed");
    assert_eq!(&fs.read("/f").await.unwrap()[..], b"kept");
    let longest = format!("/{}", "n".repeat(255));
    fs.write(&longest, "x").await.unwrap();
    fs.remove_file(&longest).await.unwrap();
    assert_eq!(fs.metadata("/d/../d/./f").await.unwrap().size, 4, "dots inside a path are walked");
    assert_eq!(fs.metadata("../..").await.unwrap().inode, fs.metadata("/").await.unwrap().inode);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_is_there_all_the_time() {
    let cluster = Cluster::builder().masters(1).chunkservers(2).start().await.unwrap();
    let (writer, reader) = (cluster.client().await.unwrap(), cluster.client().await.unwrap());
    let fs = writer.filesystem();
    fs.write("/f", "0").await.unwrap();
    let replacing = tokio::spawn(async move {
        for n in 1..=300 {
            fs.write("/f.new", n.to_string()).await.unwrap();
            fs.rename("/f.new", "/f").await.unwrap();
        }
    });
    let mut last = 0;
    while !replacing.is_finished() {
        let now: u32 = reader.filesystem().read_to_string("/f").await.unwrap().parse().unwrap();
        assert!(now >= last, "{now} was read after {last}");
        last = now;
    }
    replacing.await.unwrap();
}
