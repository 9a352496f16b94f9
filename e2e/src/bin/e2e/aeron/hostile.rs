//! What a pod on Aeron can do to others by its client id and its writable volume: nothing that lasts.

use super::{PEERS, member};
use crate::world::World;

/// Of the producer on Aeron, whose volume is writable.
const PRODUCER: &str =
    "pid=$(pgrep --full '^/aeron/exchange produce peer$'); volume=/proc/$pid/root/run/tensorpool";
/// Inodes that it makes.
const INODES: u64 = 100_000;

/// An id counts for the stream and the role of the volume that it was given to, and no other id counts.
pub(super) fn client_ids(world: &World) -> Result<(), String> {
    let program = world
        .program("tensorpool-node-driver")
        .display()
        .to_string();
    let ask = format!("{PRODUCER}; {program} client-ids --volume $volume");
    let ids = world.inside("sh", &["-c", &ask])?;
    let first = ids.trim().split('-').next().and_then(|id| id.parse().ok());
    let first: u32 = first.ok_or_else(|| format!("these are no ids: {ids}"))?;
    println!("peer-producer has the ids {}", ids.trim());
    for (stream, client, words) in [
        ("mixed", first + 7, "stream not provisioned"),
        ("peer", first + 7, "role not allowed for this attachment"),
        ("peer", 7, "client_id 7 was not given to any volume"),
    ] {
        let number = ["get", "tensorstream", stream, "--namespace", PEERS];
        let output = "--output=jsonpath={.status.streamId}";
        let number = world.kubectl(&[&number[..], &[output]].concat())?;
        let said = member::attaches(world, &number, client)?;
        print!("a consumer of `{stream}` with id {client}: {said}");
        if !said.contains(words) {
            return Err(format!("not said: {words}"));
        }
    }
    Ok(())
}

/// The pod renames what it was shown, keeps links to it, closes directories and makes as many inodes as it
/// likes. When it is gone nothing of that is left.
pub(super) fn leaves_nothing(world: &World) -> Result<(), String> {
    let inodes = || {
        let count = "df --output=iused /run/tensorpool/shm/2Mi | tail -n 1; find /run/tensorpool/shm/2Mi/views | wc -l";
        let said = world.inside("sh", &["-c", count])?;
        let numbers: Result<Vec<u64>, _> = said.lines().map(|it| it.trim().parse()).collect();
        match numbers.map_err(|error| error.to_string())?[..] {
            [used, views] => Ok((used, views)),
            _ => Err(format!("not two numbers: {said}")),
        }
    };
    let before = inodes()?;
    let harm = format!(
        "{PRODUCER}; cd $volume || exit 1; mkdir mine && ring=$(find shm -name header.ring | head -n 1) && ln $ring mine/kept \
         && mv shm mine/renamed && mkdir shm && mkdir -p mine/$(printf 'd/%.0s' $(seq 100)) && mkdir mine/many \
         && cd mine/many && seq {INODES} | xargs touch && cd ../.. && chmod 0700 mine/many && chmod 0000 mine"
    );
    world.inside("sh", &["-c", &harm])?;
    let (used, views) = inodes()?;
    println!("{used} inodes, {views} names in views");
    if used < before.0 + INODES {
        return Err("the harm was not done".to_owned());
    }
    let gone = [
        "delete",
        "pod",
        "peer-producer",
        "--now",
        "--namespace",
        PEERS,
    ];
    world.kubectl(&gone)?;
    let after = inodes()?;
    println!("{} inodes, {} names in views after it", after.0, after.1);
    if after.0 > before.0 || after.1 > before.1 {
        return Err("it left something".to_owned());
    }
    Ok(())
}
