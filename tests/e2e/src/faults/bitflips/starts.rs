//! Bits flipped in what a node reads at its start: notes, redo logs, identities, keys.

use super::{Content, Daemon, Flip, Flips, Start, Surface, start};
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

impl Flips<'_> {
    pub(super) fn starts(&mut self) -> Result<()> {
        let part = if self.little { 5 } else { 1 };
        for n in 0..14usize.div_ceil(part) {
            let server = n % 3;
            // Notes of the last writes are there after a kill.
            let extra = Content { seed: 70_000 + n as u64, len: 200_000 };
            let path = format!("/d/noted{n}");
            self.stage.sdk().put(&path, &extra.bytes(), false)?;
            self.files.insert(path, extra);
            self.chunkserver("chunkserver: dirty.redb", server, |s, disk| {
                s.in_file(&disk.join("dirty.redb"))
            })?;
        }
        for n in 0..12usize.div_ceil(part) {
            self.overwrite(n as u64)?;
            self.chunkserver("chunkserver: redo log", n % 3, |s, disk| s.in_redo_log(disk))?;
        }
        for n in 0..8usize.div_ceil(part) {
            self.chunkserver("chunkserver: identity of a disk", n % 3, |s, disk| {
                s.in_file(&disk.join("identity"))
            })?;
        }
        for n in 0..6usize.div_ceil(part) {
            self.identity("chunkserver: certificate, key", false, n % 3, "")?;
        }
        Ok(())
    }

    fn chunkserver(
        &mut self,
        kind: &'static str,
        server: usize,
        place: impl FnOnce(&mut Self, &Path) -> Option<(PathBuf, u64)>,
    ) -> Result<()> {
        self.stage.cluster.chunkservers[server].kill9()?;
        let disk = self.draw.below(2) + 1;
        let dir = self.stage.cluster.data(&format!("chunkserver-{}", server + 1)).join(format!("disk{disk}"));
        let (path, at) = place(self, &dir)
            .with_context(|| format!("{kind}: there is no such file in {}", dir.display()))?;
        self.flip_and_start(kind, &path, at, false, server)
    }

    /// Writes over what was synced, and syncs: that goes through the redo logs. Of as many files as it takes for every
    /// server to have some.
    fn overwrite(&mut self, round: u64) -> Result<()> {
        for n in 0..6 {
            let path = format!("/d/overwritten{n}");
            let content = |seed| Content { seed: 80_000 + seed, len: 100_000 };
            if round == 0 {
                self.stage.sdk().put(&path, &content(n).bytes(), true)?;
            }
            let now = content(10 * (round + 1) + n);
            let file = self.stage.sdk().open(&path)?;
            file.write_at(0, &now.bytes())?;
            file.sync()?;
            file.close()?;
            self.files.insert(path, now);
        }
        Ok(())
    }

    /// A place in a segment of the redo log of the server that has this disk.
    fn in_redo_log(&mut self, disk: &Path) -> Option<(PathBuf, u64)> {
        let (mut logs, server) = (vec![], disk.parent()?);
        for (disk, n) in [("disk1", 0), ("disk1", 1), ("disk2", 0), ("disk2", 1)] {
            logs.extend(Some(server.join(disk).join(format!("redo.{n}"))).filter(|p| p.is_file()));
        }
        let log = logs.get(self.draw.below(logs.len() as u64) as usize)?.clone();
        self.in_file(&log)
    }

    /// A place in a node's certificate, key or identity, or in what there is `within` its directory.
    pub(super) fn identity(
        &mut self,
        kind: &'static str,
        master: bool,
        which: usize,
        within: &str,
    ) -> Result<()> {
        let (node, name) = self.node(master, which);
        node.stop()?;
        let dir = self.stage.cluster.identity(&name).join(within);
        let mut files: Vec<_> =
            fs::read_dir(&dir)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).collect();
        let of_data = self.stage.cluster.data(&name).join("identity");
        files.extend(Some(of_data).filter(|p| within.is_empty() && p.is_file()));
        files.sort();
        let path = files[self.draw.below(files.len() as u64) as usize].clone();
        let at = self.draw.below(fs::metadata(&path)?.len());
        self.flip_and_start(kind, &path, at, master, which)
    }

    fn node(&mut self, master: bool, which: usize) -> (&mut Daemon, String) {
        let (kind, all) = if master {
            ("master", &mut self.stage.cluster.masters)
        } else {
            ("chunkserver", &mut self.stage.cluster.chunkservers)
        };
        (&mut all[which], format!("{kind}-{}", which + 1))
    }

    fn flip_and_start(
        &mut self,
        kind: &'static str,
        path: &Path,
        at: u64,
        master: bool,
        which: usize,
    ) -> Result<()> {
        let flip = Flip::make(path, at, self.draw.below(8) as u8)?;
        let (node, name) = self.node(master, which);
        let how = start(node)?;
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let place = format!("{name}, {file} at {at} bit {}", flip.bit);
        self.tally(kind).places += 1;
        let good = self.judge(kind, &place)?;
        let (node, _) = self.node(master, which);
        if matches!(how, Start::Ready) {
            node.stop()?;
        } else if matches!(how, Start::Hangs) {
            node.kill9()?;
        }
        let mended = flip.is_mended() != Some(false);
        flip.undo()?;
        let (node, _) = self.node(master, which);
        node.start()?;
        node.wait_ready().with_context(|| format!("after the flip was taken back ({place})"))?;
        let tally = self.tally(kind);
        match how {
            Start::Ready => {
                tally.right += u64::from(good);
                tally.repaired += u64::from(mended);
            }
            Start::Ended | Start::Hangs => tally.refused += 1,
        }
        // One damage at a time: what was refused may have made suspects, and copies elsewhere.
        self.stage.healed()?;
        self.stage.masters_follow()
    }
}
