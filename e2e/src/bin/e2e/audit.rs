//! What the service accounts did, as the API server's audit log has it, against what they may do.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::world::World;

/// Service accounts; their roles have the same names.
const ACCOUNTS: [&str; 2] = ["tensorpool-operator", "tensorpool-node-driver"];

/// One thing that somebody may do, or did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

/// What is allowed although the log of one quiet run does not show it: account, resource, verb.
const UNSEEN: [(&str, &str, &str); 3] = [
    // The second event of the same reason within an hour.
    ("tensorpool-operator", "events", "patch"),
    // A server-side apply that makes an object needs it, and is logged as a patch.
    ("tensorpool-operator", "tensorpoolnodes", "create"),
    ("tensorpool-node-driver", "leases", "create"),
];

/// Fails where a request was refused, and where a right was not used.
pub(crate) fn compare(world: &World) -> Result<(), String> {
    let log =
        fs::read_to_string(world.audit_log()).map_err(|error| format!("no audit log: {error}"))?;
    let mut findings = Vec::new();
    for account in ACCOUNTS {
        let may = rights(world, account)?;
        let (did, refused) = requests(&log, account);
        println!("{account}: {} rights, {} used", may.len(), did.len());
        findings.extend(
            refused
                .into_iter()
                .map(|it| format!("{account} was refused: {it}")),
        );
        let unseen = |right: &&Right| {
            let same = |(who, resource, verb): &&(&str, &str, &str)| {
                *who == account && *resource == right.resource && *verb == right.verb
            };
            UNSEEN.iter().any(|entry| same(&entry))
        };
        let unused = may.difference(&did).filter(|right| !unseen(right));
        findings.extend(unused.map(|right| format!("{account} never needed {right:?}")));
    }
    if findings.is_empty() {
        Ok(())
    } else {
        Err(findings.join("\n"))
    }
}

/// What the roles of this name allow.
fn rights(world: &World, account: &str) -> Result<BTreeSet<Right>, String> {
    let mut rights = BTreeSet::new();
    for kind in ["clusterrole", "role"] {
        let role = [
            "get",
            kind,
            account,
            "--namespace",
            "tensorpool-system",
            "--output=json",
        ];
        let role: Value = serde_json::from_str(&world.kubectl(&role)?)
            .map_err(|error| format!("{kind} {account}: {error}"))?;
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |field: &str| {
                let all = rule[field].as_array().into_iter().flatten();
                all.filter_map(Value::as_str).collect::<Vec<_>>()
            };
            for group in words("apiGroups") {
                for resource in words("resources") {
                    rights.extend(words("verbs").into_iter().map(|verb| Right {
                        group: group.to_owned(),
                        resource: resource.to_owned(),
                        verb: verb.to_owned(),
                    }));
                }
            }
        }
    }
    Ok(rights)
}

/// How the API server ends its refusal of new objects in a namespace that is being deleted. That is no
/// matter of rights: an operator that tells what becomes of a stream may come too late for it.
const TOO_LATE: &str = "because it is being terminated";

/// What the account did, and what it was refused.
fn requests(log: &str, account: &str) -> (BTreeSet<Right>, BTreeSet<String>) {
    let user = format!("system:serviceaccount:tensorpool-system:{account}");
    let (mut did, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let entries = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    for entry in entries.filter(|entry: &Value| entry["user"]["username"] == user.as_str()) {
        let object = &entry["objectRef"];
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(below) => format!("{}/{below}", word(&object["resource"])),
            None => word(&object["resource"]),
        };
        if resource.is_empty() {
            continue;
        }
        let verb = word(&entry["verb"]);
        let group = word(&object["apiGroup"]);
        let why = word(&entry["responseStatus"]["message"]);
        if entry["responseStatus"]["code"] == 403 && !why.ends_with(TOO_LATE) {
            refused.insert(format!("{verb} {resource} of {group:?}: {why}"));
        } else {
            did.insert(Right {
                group,
                resource,
                verb,
            });
        }
    }
    (did, refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_refusals_are_told_apart() {
        let entry = |verb: &str, sub: &str, code: u16, why: &str| {
            format!(
                r#"{{"verb":"{verb}","user":{{"username":"system:serviceaccount:tensorpool-system:a"}},"objectRef":{{"resource":"r","apiGroup":"g"{sub}}},"responseStatus":{{"code":{code},"message":"{why}"}}}}"#
            )
        };
        let log = [
            entry("get", "", 200, ""),
            entry("patch", r#","subresource":"status""#, 200, ""),
            entry("delete", "", 403, "no"),
            entry("create", "", 403, &format!("not in vision {TOO_LATE}")),
        ];
        let (did, refused) = requests(&log.join("\n"), "a");
        let right = |resource: &str, verb: &str| Right {
            group: "g".to_owned(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
        };
        assert_eq!(
            did,
            BTreeSet::from([
                right("r", "create"),
                right("r", "get"),
                right("r/status", "patch")
            ])
        );
        assert_eq!(
            refused,
            BTreeSet::from([r#"delete r of "g": no"#.to_owned()])
        );
        assert_eq!(requests(&log.join("\n"), "b").0, BTreeSet::new());
    }
}
