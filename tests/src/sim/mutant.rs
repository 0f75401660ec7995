//! Deliberately broken variants. The production code has no seam for them: each breaks what goes in or comes out.
//! A simulator that does not find them proves nothing.

macro_rules! mutants {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)+) => {
        /// A way to be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$meta])* $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

mutants! {
    /// The edge publishes, and then commits.
    PublishBeforeCommit = "publish-before-commit",
    /// The edge raises the gate, and then commits.
    RaiseBeforeCommit = "raise-before-commit",
    /// The edge deletes samples when the broker has them.
    DeleteOnPuback = "delete-on-puback",
    /// The edge goes on under the old ceiling while an initial or a final is out.
    NoCut = "no-cut",
    /// The edge counts validity from the receipt of the answer.
    ValidityFromReceipt = "validity-from-receipt",
    /// The edge takes answers of any epoch as its own (R1).
    AnyEpoch = "any-epoch",
    /// The edge takes acknowledgements of any epoch as its own (R1).
    AckAnyEpoch = "ack-any-epoch",
    /// The edge takes an old answer for the latest (R2).
    StaleAnswer = "stale-answer",
    /// The edge forgets after a crash what it had metered last (sample and position not in one commit).
    SplitCommit = "split-commit",
    /// The cloud answers, and then commits.
    AnswerBeforeCommit = "answer-before-commit",
    /// The cloud debits what a credit request says was used.
    DebitOnCredit = "debit-on-credit",
    /// The cloud forgets its answer and decides the same number again (R5).
    AnswerNotStored = "answer-not-stored",
    /// The cloud decides a number below the highest (R5).
    StaleDecided = "stale-decided",
    /// The cloud does not move the mark.
    MarkNotMoved = "mark-not-moved",
    /// The cloud moves the mark further than the debit.
    MarkTooFar = "mark-too-far",
    /// The cloud's ledger lowers the ceiling with an update, while the device takes the larger one (R6).
    CeilingLowered = "ceiling-lowered",
    /// The cloud says a higher ceiling than it booked.
    CeilingPromised = "ceiling-promised",
    /// The cloud takes segments from the wrong end.
    SegmentsReversed = "segments-reversed",
    /// The cloud acknowledges usage after a lapse without charging it.
    LateDropped = "late-dropped",
    /// The cloud does not move the lease with the validity (R4).
    LeaseNotMoved = "lease-not-moved",
    /// The cloud shortens the lease with an update that the device may never hear.
    LeaseShortened = "lease-shortened",
    /// A merged sample is numbered by its first only.
    MergedByFirst = "merged-by-first",
    /// A merged sample is numbered by its last only.
    MergedByLast = "merged-by-last",
    /// Two operations of one batch read the same balance.
    NoReadOfOwnWrites = "no-read-of-own-writes",
}
