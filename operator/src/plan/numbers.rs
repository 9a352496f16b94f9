//! Numbers of streams: each belongs to one stream at a time.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_crds::StreamIdRange;

use crate::plan::world::{Stream, World, reports};

/// Who has which number.
#[derive(Debug, Default)]
pub(super) struct Numbers<'a> {
    /// The stream that a number belongs to.
    owners: BTreeMap<u32, Stream<'a>>,
    /// Numbers that nodes report or were told for streams other than the owner, with the node.
    lingering: BTreeMap<u32, BTreeSet<Lingering<'a>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lingering<'a> {
    node: &'a str,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

impl<'a> Numbers<'a> {
    /// Settles who owns what is already taken: first the streams that were given a number, those that
    /// run before others; then those that ask for one, the older before the newer.
    pub(super) fn of(world: &World<'a>) -> Self {
        let mut numbers = Self {
            lingering: lingering(world),
            ..Self::default()
        };
        let mut given: Vec<_> = world
            .order
            .iter()
            .filter_map(|stream| Some((world.given_id(stream)?, *stream)))
            .collect();
        given.sort_by_key(|(id, stream)| !numbers.runs_as(*id, stream));
        for (id, stream) in given {
            numbers.owners.entry(id).or_insert(stream);
        }
        for stream in &world.order {
            let asked = stream.object.spec.stream_id;
            if let Some(id) = asked.filter(|_| world.given_id(stream).is_none()) {
                numbers.owners.entry(id).or_insert(*stream);
            }
        }
        numbers
    }

    /// The number that `stream` has or asks for, if it is its own; else why not. `Ok(None)`: it has to
    /// be given one.
    pub(super) fn own(
        &self,
        world: &World<'_>,
        stream: &Stream<'a>,
    ) -> Result<Option<u32>, String> {
        let asked = stream.object.spec.stream_id;
        let given = world.given_id(stream);
        let wanted = given.or(asked);
        let Some(id) = wanted else { return Ok(None) };
        let owner = self.owners.get(&id);
        match owner.filter(|owner| owner.uid != stream.uid) {
            Some(_) if asked.is_none() => Ok(None),
            Some(owner) => Err(format!(
                "stream id {id} belongs to TensorStream {}; ask for another one, or leave streamId out",
                owner.path()
            )),
            None => match self.foreign(id, stream) {
                None => Ok(Some(id)),
                // It runs with it already: whoever else reports it is the one that lingers.
                Some(_) if given.is_some() => Ok(Some(id)),
                Some(other) => Err(format!(
                    "stream id {id} is still in use on node {} by {}/{} (uid {}), which is being removed there",
                    other.node, other.namespace, other.name, other.uid
                )),
            },
        }
    }

    /// Gives `stream` the smallest free number of a range.
    pub(super) fn give(&mut self, stream: Stream<'a>, range: StreamIdRange) -> Option<u32> {
        let mut id = range.from;
        loop {
            if !self.owners.contains_key(&id) && !self.lingering.contains_key(&id) {
                self.owners.insert(id, stream);
                return Some(id);
            }
            if id >= range.to {
                return None;
            }
            id += 1;
        }
    }

    fn foreign(&self, id: u32, stream: &Stream<'_>) -> Option<&Lingering<'a>> {
        let users = self.lingering.get(&id)?;
        users.iter().find(|it| it.uid != stream.uid)
    }

    fn runs_as(&self, id: u32, stream: &Stream<'_>) -> bool {
        let users = self.lingering.get(&id);
        users.is_some_and(|users| users.iter().any(|it| it.uid == stream.uid))
    }
}

/// What nodes report, and what they were told.
fn lingering<'a>(world: &World<'a>) -> BTreeMap<u32, BTreeSet<Lingering<'a>>> {
    let mut lingering: BTreeMap<u32, BTreeSet<Lingering<'a>>> = BTreeMap::new();
    for (node, object) in &world.pool_nodes {
        let reported = reports(object)
            .iter()
            .map(|it| (it.stream_id, &it.namespace, &it.name, &it.uid));
        let told = object
            .spec
            .streams
            .iter()
            .map(|it| (it.stream_id, &it.namespace, &it.name, &it.uid));
        for (id, namespace, name, uid) in reported.chain(told) {
            lingering.entry(id).or_default().insert(Lingering {
                node,
                namespace,
                name,
                uid,
            });
        }
    }
    lingering
}
