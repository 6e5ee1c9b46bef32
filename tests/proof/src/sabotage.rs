//! Faults put in on purpose, to see that the checks find them. They lie in the model around the
//! decisions, never in what is shipped.

/// What is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    Nothing,
    /// A binding whose answer was lost counts as refused.
    LostIsRefused,
    /// A pod that is being deleted counts as gone.
    TerminatingIsGone,
    /// The API server does not compare the binding's uid.
    UidIgnored,
    /// A bind holds nothing until the watch shows it.
    NothingHeld,
    /// Each replica believes that it leads.
    EverybodyLeads,
    /// An extender that starts does not wait for what the process before it had sent.
    ForgetsFormer,
    /// An extender says that a term's bindings are over while some are under way.
    SaysEndedEarly,
    /// A bind that stays unconfirmed for long enough is taken for one that was never done.
    ReleasesByTime,
    /// A replica whose scheduler leads serves before it has seen what the other did.
    ServesUnfenced,
    /// Nobody tells kube-scheduler that a refused pod would fit now.
    NobodyPokes,
}
