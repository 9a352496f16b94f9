//! Which streams are accepted: class, priority, layout, number, quota.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use tensorpool_crds::{AcceptedReason, PageSize, Quantity, ResolvedPriority};

use crate::plan::class::ClassFacts;
use crate::plan::numbers::Numbers;
use crate::plan::quota::{Ledger, covering};
use crate::plan::world::{Stream, World};

/// A stream that nodes may carry.
#[derive(Clone, Debug)]
pub(super) struct Accepted<'a> {
    pub(super) stream: Stream<'a>,
    pub(super) class: &'a str,
    pub(super) page_size: PageSize,
    pub(super) bytes: u64,
    pub(super) priority: ResolvedPriority,
    pub(super) id: u32,
    /// Names of the quotas that it counts against.
    pub(super) quotas: Vec<String>,
}

/// A stream that nodes do not get, or no further ones.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) reason: AcceptedReason,
    pub(super) message: String,
    /// Known where class and layout allow to tell.
    pub(super) bytes: Option<u64>,
    /// The number that it was given stays its own.
    pub(super) id: Option<u32>,
}

impl Refused {
    fn of(reason: AcceptedReason, message: String, bytes: Option<u64>) -> Self {
        Self {
            reason,
            message,
            bytes,
            id: None,
        }
    }
}

/// What was decided on one stream.
#[derive(Clone, Debug)]
pub(super) enum Verdict<'a> {
    Accepted(Accepted<'a>),
    Refused(Refused),
}

/// What was decided on every stream, by UID.
#[derive(Debug)]
pub(super) struct Verdicts<'a>(BTreeMap<&'a str, Verdict<'a>>);

impl<'a> Verdicts<'a> {
    pub(super) fn of(&self, stream: &Stream<'a>) -> Option<&Verdict<'a>> {
        self.0.get(stream.uid)
    }

    pub(super) fn accepted(&self) -> impl Iterator<Item = &Accepted<'a>> {
        self.0.values().filter_map(|verdict| match verdict {
            Verdict::Accepted(accepted) => Some(accepted),
            Verdict::Refused(_) => None,
        })
    }
}

/// A stream that its class and layout allow; number and quota are still open.
struct Candidate<'a> {
    stream: Stream<'a>,
    class: &'a ClassFacts<'a>,
    page_size: PageSize,
    bytes: u64,
    priority: ResolvedPriority,
    id: Option<u32>,
}

/// Decides on every stream. Streams that were accepted before, or live on a node, keep their place: they
/// count against quotas first, and no quota refuses them. The others follow by priority, then by age.
pub(super) fn admit<'a>(world: &'a World<'a>) -> Verdicts<'a> {
    let mut verdicts = BTreeMap::new();
    let mut numbers = Numbers::of(world);
    let mut ledger = Ledger::default();
    ledger.count_unreadable(world);
    let mut candidates = Vec::new();
    for stream in &world.order {
        let own = numbers.own(world, stream);
        let given = world.given_id(stream);
        match candidate(world, *stream, own.clone()) {
            Ok(candidate) => candidates.push(candidate),
            Err(refusal) => {
                let id = own.ok().flatten().filter(|id| Some(*id) == given);
                // It holds memory all the same.
                if let Some(held) = world.held(stream).filter(|held| held.lives) {
                    ledger.count(world, stream, held.bytes);
                }
                verdicts.insert(stream.uid, Verdict::Refused(Refused { id, ..refusal }));
            }
        }
    }
    candidates.sort_by_key(|it| (!world.has_place(&it.stream), Reverse(it.priority.value)));
    for candidate in candidates {
        let uid = candidate.stream.uid;
        verdicts.insert(uid, decide(world, candidate, &mut numbers, &mut ledger));
    }
    Verdicts(verdicts)
}

/// What class, layout and priority say. `own` is the number that the stream has or asks for.
fn candidate<'a>(
    world: &'a World<'a>,
    stream: Stream<'a>,
    own: Result<Option<u32>, String>,
) -> Result<Candidate<'a>, Refused> {
    let spec = &stream.object.spec;
    if stream.is_deleting() {
        let message = "the object is being deleted".to_owned();
        return Err(Refused::of(AcceptedReason::Deleting, message, None));
    }
    let class = class_of(world, &stream)?;
    let (page_size, bytes) = fit(&stream, class)?;
    let Some(priority) = world.priorities.resolve(&stream) else {
        let asked = spec.priority_class_name.as_deref().unwrap_or_default();
        let message =
            format!("there is no TensorPriorityClass `{asked}`; create it, or name another one");
        let reason = AcceptedReason::NoSuchPriorityClass;
        return Err(Refused::of(reason, message, Some(bytes)));
    };
    let in_use = |message| Refused::of(AcceptedReason::StreamIdInUse, message, Some(bytes));
    Ok(Candidate {
        stream,
        class,
        page_size,
        bytes,
        priority,
        id: own.map_err(in_use)?,
    })
}

fn class_of<'a>(world: &'a World<'a>, stream: &Stream<'a>) -> Result<&'a ClassFacts<'a>, Refused> {
    let name = stream.object.spec.class_name.as_str();
    world.classes.get(name).ok_or_else(|| {
        let message =
            format!("there is no TensorPoolClass `{name}`; create it, or name another one");
        Refused::of(AcceptedReason::NoSuchClass, message, None)
    })
}

/// Page size and bytes of the stream in the class.
fn fit(stream: &Stream<'_>, class: &ClassFacts<'_>) -> Result<(PageSize, u64), Refused> {
    let spec = &stream.object.spec;
    let name = class.name;
    let size = class.size_bytes.clone().map_err(|error| {
        let message = format!("TensorPoolClass `{name}` offers nothing: {error}");
        Refused::of(AcceptedReason::ClassInvalid, message, None)
    })?;
    if let Some(flaw) = spec.layout.flaw() {
        return Err(Refused::of(AcceptedReason::LayoutInvalid, flaw, None));
    }
    let pages = class.object.spec.page_size;
    let Some(page_size) = spec.page_size.within(pages) else {
        let message = format!(
            "TensorPoolClass `{name}` has pages of {}, and the stream insists on others",
            pages.name()
        );
        return Err(Refused::of(AcceptedReason::PageSizeMismatch, message, None));
    };
    let bytes = spec.layout.bytes(page_size);
    if bytes > size {
        let message = format!(
            "the layout needs {} per node, and TensorPoolClass `{name}` has {}; take fewer slots or smaller strides",
            Quantity::from_bytes(bytes),
            Quantity::from_bytes(size)
        );
        return Err(Refused::of(
            AcceptedReason::LayoutInvalid,
            message,
            Some(bytes),
        ));
    }
    Ok((page_size, bytes))
}

fn decide<'a>(
    world: &'a World<'a>,
    candidate: Candidate<'a>,
    numbers: &mut Numbers<'a>,
    ledger: &mut Ledger<'a>,
) -> Verdict<'a> {
    let Candidate {
        stream,
        class,
        page_size,
        bytes,
        priority,
        id,
    } = candidate;
    let refuse = |reason, message| {
        Verdict::Refused(Refused {
            id: world.given_id(&stream).filter(|given| Some(*given) == id),
            ..Refused::of(reason, message, Some(bytes))
        })
    };
    if !world.has_place(&stream)
        && let Some(message) = ledger.refusal(world, &stream, bytes)
    {
        return refuse(AcceptedReason::QuotaExceeded, message);
    }
    let range = class.object.spec.stream_id_range;
    let Some(id) = id.or_else(|| numbers.give(stream, range)) else {
        let message = format!(
            "every stream id from {} to {} is taken; widen streamIdRange of TensorPoolClass `{}`, or set streamId",
            range.from, range.to, class.name
        );
        return refuse(AcceptedReason::StreamIdsExhausted, message);
    };
    ledger.count(world, &stream, bytes);
    let quotas = covering(world, &stream).map(|quota| quota.name.to_owned());
    Verdict::Accepted(Accepted {
        stream,
        class: class.name,
        page_size,
        bytes,
        priority,
        id,
        quotas: quotas.collect(),
    })
}
