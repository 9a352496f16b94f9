//! Every type and reason of a condition: bounded sets, since they are labels of metrics and the API
//! that alerts and scripts use. `crds/tests/snapshots` pins them.

/// An enum of words for the API.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $word:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$item])* $word,)+
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];

            /// The word as it stands in the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)+
                }
            }
        }
    };
}

words! {
    /// Conditions of a `TensorStream`.
    StreamCondition {
        /// Class, id, layout and quota allow the stream.
        Accepted,
        /// The nodes have been told.
        Programmed,
        /// Every node that shall carry the stream does.
        Ready,
    }
}

words! {
    /// Reasons of `Accepted`.
    AcceptedReason {
        /// It is accepted.
        Accepted,
        /// There is no `TensorPoolClass` of that name.
        NoSuchClass,
        /// There is no `TensorPriorityClass` of that name.
        NoSuchPriorityClass,
        /// Another stream has the id, or a node still reports it.
        StreamIdInUse,
        /// Every id of the class's range is taken.
        StreamIdsExhausted,
        /// The layout breaks a rule, or is larger than the class.
        LayoutInvalid,
        /// The class has pages of another size.
        PageSizeMismatch,
        /// The class's size is no quantity, or less than a page.
        ClassInvalid,
        /// A quota of the namespace is used up.
        QuotaExceeded,
        /// The object is being deleted.
        Deleting,
    }
}

words! {
    /// Reasons of `Programmed`.
    ProgrammedReason {
        /// Every eligible node has been told.
        Programmed,
        /// The stream is not accepted.
        NotAccepted,
        /// No node matches class and placement.
        NoMatchingNode,
        /// A node has as many streams as it can report.
        NodeStreamLimit,
        /// A node was told and does not follow yet.
        NodesPending,
        /// The object is being deleted.
        Deleting,
    }
}

words! {
    /// Reasons of `Ready`.
    ReadyReason {
        /// Every node that shall carry the stream does.
        Ready,
        /// It will be made when the first pod mounts it.
        OnDemand,
        /// The stream is not accepted.
        NotAccepted,
        /// No node has been told.
        NotProgrammed,
        /// Memory is being made on some nodes.
        NodesPending,
        /// Memory could not be made on some nodes, or was preempted.
        NodesDegraded,
        /// The object is being deleted.
        Deleting,
    }
}

words! {
    /// Reasons of a class's `Ready`.
    ClassReason {
        /// Streams are accepted.
        Ready,
        /// `sizePerNode` is no quantity, or less than a page.
        SizeInvalid,
        /// No node matches.
        NoMatchingNode,
    }
}

words! {
    /// Conditions of a `TensorPoolNode`.
    NodeCondition {
        /// The driver serves pods.
        Ready,
        /// Kubelet knows the driver.
        CSIRegistered,
        /// The CSIDriver object lets pods forge who they are; every mount is refused.
        CSIDriverMisconfigured,
        /// The media driver answers.
        AeronHealthy,
        /// There are huge pages for every class.
        HugepagesAvailable,
        /// Kubelet counts other huge pages than the kernel has.
        HugepagesStale,
        /// A class's size changed; the mount follows when the node is drained.
        PoolResizePending,
        /// The driver follows the current policy.
        PolicyApplied,
    }
}

words! {
    /// Reasons of a node's conditions.
    NodeReason {
        /// As it should be.
        AsExpected,
        /// The driver has just started.
        Starting,
        /// The driver has not reported for longer than its lease.
        DriverSilent,
        /// Mounts of the memory are missing.
        MountMissing,
        /// Kubelet has not registered the driver.
        NotRegistered,
        /// podInfoOnMount is not true, or the lifecycle is not Ephemeral.
        CSIDriverInsecure,
        /// The CSIDriver object is missing.
        CSIDriverMissing,
        /// The media driver does not answer.
        MediaDriverSilent,
        /// No class of the node allows Aeron.
        NotConfigured,
        /// Fewer huge pages than the classes need.
        TooFewHugepages,
        /// Kubelet must be restarted to see the current number of huge pages.
        RestartKubelet,
        /// The mount has another size than the class.
        MountSizeDiffers,
        /// The class wants its pages set aside or labelled, and the mount's are not.
        MountOptionsDiffer,
        /// The policy could not be applied; the message says why.
        PolicyRejected,
        /// A newer policy has arrived and is being applied.
        PolicyPending,
        /// A person cordoned the node.
        Cordoned,
        /// The driver is stopping.
        ShuttingDown,
    }
}
