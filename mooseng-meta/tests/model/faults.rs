//! What the model must find wrong: each cure of the protocol left out, and mistakes planted on purpose.

use crate::{ALL, Config, steps::Failure};

/// A mistake. Without any, the model is as the code shall be; the first group says how it was, or still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A restart forgets write numbers (they are durable with the content that they belong to).
    NumbersForgotten,
    /// A sync puts content on the disk, and not the numbers that belong to it.
    NumbersBehindSync,
    /// Who is told to make a new version from nothing forgets numbers, and keeps content.
    NumbersCutAlone,
    /// The winner among suspects becomes good at the version that others may have.
    BlessedInPlace,
    /// A bump that another task began is carried on at its version.
    BumpTakenUp,
    /// A client lets go of what is synced at a set that the masters do not know to be written.
    FreshSetAbandoned,
    /// A commit that names a set older than the one that was made anew is taken once that is committed.
    OldSetCommitted,
    /// Empty replicas are made at a version that has survivors, for a chunk that may be committed meanwhile.
    EmptyForCommitted,
    /// A bump that begins with nothing is replaced by one with survivors; what it has said may arrive yet.
    AnewForgotten,
    /// A head that has the chunk lets those behind it make it.
    CreatePassedOn,
    /// The right to make a chunk outlives the server's start that it was given for.
    CreateUnbound,
    /// A server that has deleted a chunk makes it again for a late first write.
    DeletedForgotten,
    /// What the earlier start of a head has sent on is taken after what its present start sends.
    OldStreamsLive,
    /// The note that a chunk is dirty goes while its chain is broken, or frames are under way.
    NoteGoesEarly,

    /// A server does not look at the version of a frame.
    VersionUnchecked,
    /// A sync does not ask whether those who acknowledged still run.
    IncarnationIgnored,
    /// Nor does one of what was acknowledged at a version before.
    EarlierUnchecked,
    /// What was dirty at a crash is served.
    SuspectServed,
    /// Others are let in before a fence is acknowledged.
    FenceNotAwaited,
    /// A frame is applied as often as it comes.
    RepeatApplied,
    /// A copy that is left out is deleted before the set that leaves it out is whole.
    SurplusEarly,
}

/// Where a mistake is found soonest.
pub fn found_in() -> Vec<(&'static [Fault], Config)> {
    use Failure::*;
    use Fault::*;
    let known = |failures, kinds: &[Failure]| Config::new(failures, kinds);
    let fresh = |failures, kinds: &[Failure], writes| Config::new(failures, kinds).fresh(writes);
    vec![
        (&[NumbersForgotten], known(1, &[GiveUp, Stop])),
        (&[NumbersBehindSync], known(2, &[GiveUp, Stop])),
        // Without the second such a set begins with nothing, and nobody has numbers.
        (&[NumbersCutAlone, EmptyForCommitted], fresh(1, &ALL, [1, 1])),
        (&[BlessedInPlace], known(2, &[GiveUp, Stop])),
        (&[BumpTakenUp], known(2, &[GiveUp, Abandon])),
        (&[FreshSetAbandoned], fresh(2, &[GiveUp, Stop], [1, 0])),
        (&[OldSetCommitted], fresh(2, &[Abandon, Cut], [1, 1])),
        (&[EmptyForCommitted], fresh(2, &[GiveUp, Wipe], [1, 0])),
        (&[AnewForgotten], fresh(2, &[Crash, Late], [1, 0])),
        (&[CreatePassedOn], fresh(1, &[Crash], [2, 0])),
        (&[CreateUnbound], fresh(2, &[GiveUp, Wipe], [1, 0])),
        (&[DeletedForgotten], fresh(2, &[GiveUp, Cut], [1, 0])),
        (&[OldStreamsLive], fresh(2, &[Crash, Fence], [1, 1])),
        (&[NoteGoesEarly], known(2, &[GiveUp, Stop])),
        (&[VersionUnchecked], known(1, &[GiveUp])),
        (&[IncarnationIgnored], known(2, &[Crash]).writes([1, 0]).closes()),
        (&[EarlierUnchecked], known(2, &[Crash]).writes([1, 0]).closes()),
        (&[SuspectServed], known(1, &[Crash])),
        (&[FenceNotAwaited], known(2, &[Crash, Fence])),
        (&[RepeatApplied], known(1, &[GiveUp])),
        (&[SurplusEarly], known(2, &[Crash, Wipe])),
    ]
}
