//! From text to commands. Every mistake names its line and what is allowed.

use berth_topology::names;

use super::{Asks, Command, Expected, Pods, Statement};
use crate::decide::Preference;

/// Lines of one script.
const LINES_MAX: usize = 10_000;
/// A qualified name: a DNS subdomain, a slash and a name.
const RESOURCE_BYTES_MAX: usize = 253 + 1 + 63;
/// Equal nodes or pods made at once.
const COUNT_MAX: usize = 5_000;

/// What a pod may ask beside its GPUs, and the annotation that says it.
const WISHES: [(&str, &str); 8] = [
    ("tp", names::TENSOR_PARALLEL_SIZE),
    ("link", names::LINK),
    ("link-policy", names::LINK_POLICY),
    ("numa", names::NUMA),
    ("nic", names::NIC),
    ("memory", names::GPU_MEMORY),
    ("model", names::GPU_MODEL),
    ("group", names::GROUP_ANNOTATION),
];

/// A line that is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// What is wrong, and what is allowed.
    pub what: String,
}

/// Words of one line.
struct Words<'a> {
    rest: std::str::SplitWhitespace<'a>,
}

/// Reads a script.
///
/// # Errors
/// At the first line that is no command.
pub fn parse(text: &str) -> Result<Vec<Statement>, Error> {
    let mut statements = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line_number = number + 1;
        let bare = line.split('#').next().unwrap_or_default().trim();
        if bare.is_empty() {
            continue;
        }
        let failed = |what| Error {
            line: line_number,
            what,
        };
        if statements.len() >= LINES_MAX {
            return Err(failed(format!("a script has at most {LINES_MAX} commands")));
        }
        let mut words = Words {
            rest: bare.split_whitespace(),
        };
        let command = words.command().map_err(failed)?;
        if let Some(word) = words.rest.next() {
            return Err(failed(format!("{word:?} is one word too many")));
        }
        statements.push(Statement {
            line: line_number,
            text: bare.to_owned(),
            command,
        });
    }
    Ok(statements)
}

// === impl Words ===

impl<'a> Words<'a> {
    fn command(&mut self) -> Result<Command, String> {
        Ok(match self.next("a command")? {
            "resource" => Command::Resource(self.resource()?),
            "node" => self.node()?,
            "pod" => self.pod()?,
            "bind" => Command::Bind(self.pods()?),
            "delete" => Command::Delete(self.pods()?),
            "other" => self.other()?,
            "fail" => Command::Fail {
                node: self.name()?,
                gpus: numbers(self.next("GPU indices, such as 0,3")?)?,
            },
            "degrade" => self.degrade()?,
            "mig" => self.mig()?,
            "recover" => Command::Recover(self.name()?),
            "stale" => Command::Stale(self.name()?),
            "fresh" => Command::Fresh(self.name()?),
            "prefer" => Command::Prefer(match self.next("pack or spread")? {
                "pack" => Preference::Pack,
                "spread" => Preference::Spread,
                other => return Err(format!("{other:?} is not known; allowed: pack, spread")),
            }),
            "expect" => self.expect()?,
            "explain" => self.explain()?,
            "show" => Command::Show,
            other => {
                return Err(format!(
                    "{other:?} is no command; allowed: resource, node, pod, bind, delete, other, fail, degrade, mig, recover, stale, fresh, prefer, expect, explain, show"
                ));
            }
        })
    }

    fn node(&mut self) -> Result<Command, String> {
        let (name, machine) = (self.name()?, self.next("a recorded machine")?.to_owned());
        let (mut count, mut policy) = (None, None);
        while let Some((key, value)) = self.option()? {
            match key {
                "count" => count = Some(counted(value)?),
                "policy" => policy = Some(value.to_owned()),
                _ => return Err(format!("{key:?} is not known; allowed: count=, policy=")),
            }
        }
        Ok(Command::Node {
            name,
            machine,
            count,
            policy,
        })
    }

    fn pod(&mut self) -> Result<Command, String> {
        let name = self.name()?;
        if name == "all" {
            return Err("a pod cannot be called all: that means every pod".to_owned());
        }
        let (mut asks, mut count) = (Asks::default(), None);
        while let Some((key, value)) = self.option()? {
            let wish = WISHES.iter().find(|(known, _)| *known == key);
            match (key, wish) {
                ("gpus", _) => asks.gpu_count = number(value)?,
                ("priority", _) => asks.priority = Some(number(value)?),
                ("count", _) => count = Some(counted(value)?),
                (_, Some((_, annotation))) => {
                    asks.annotations.push((annotation, value.to_owned()));
                }
                _ => {
                    let known: Vec<&str> = WISHES.iter().map(|(known, _)| *known).collect();
                    let known = known.join("=, ");
                    return Err(format!(
                        "{key:?} is not known; allowed: gpus=, count=, priority=, {known}="
                    ));
                }
            }
        }
        if asks.gpu_count == 0 {
            return Err("gpus= is missing: how many GPUs does the pod ask for?".to_owned());
        }
        Ok(Command::Pod { name, asks, count })
    }

    fn other(&mut self) -> Result<Command, String> {
        let name = self.name()?;
        self.word("on")?;
        let node = self.name()?;
        let gpu_count = match self.option()? {
            Some(("gpus", value)) => number(value)?,
            _ => return Err("gpus= is missing: how many GPUs does the pod hold?".to_owned()),
        };
        Ok(Command::Other {
            name,
            node,
            gpu_count,
        })
    }

    fn degrade(&mut self) -> Result<Command, String> {
        let node = self.name()?;
        let pair = self.next("two GPU indices, such as 0,3")?;
        let [a, b] = numbers(pair)?[..] else {
            return Err(format!("{pair:?} are not two GPU indices, such as 0,3"));
        };
        let lanes = match self.option()? {
            Some(("lanes", value)) => number(value)?,
            _ => return Err("lanes= is missing: how many are left?".to_owned()),
        };
        Ok(Command::Degrade { node, a, b, lanes })
    }

    fn resource(&mut self) -> Result<String, String> {
        let name = self.next("an extended resource, such as nvidia.com/gpu")?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-./".contains(c);
        let is_one = name.split('/').count() == 2 && name.chars().all(is_plain);
        if !is_one || name.len() > RESOURCE_BYTES_MAX {
            return Err(format!(
                "{name:?} is no extended resource, such as nvidia.com/mig-1g.10gb"
            ));
        }
        Ok(name.to_owned())
    }

    fn mig(&mut self) -> Result<Command, String> {
        let node = self.name()?;
        let gpus = numbers(self.next("GPU indices, such as 0,3")?)?;
        let (mut profile, mut count) = (None, None);
        while let Some((key, value)) = self.option()? {
            match key {
                "profile" => profile = Some(value.to_owned()),
                "count" => count = Some(number(value)?),
                _ => {
                    return Err(format!("{key:?} is not known; allowed: profile=, count="));
                }
            }
        }
        Ok(Command::Mig {
            node,
            gpus,
            profile: profile.ok_or("profile= is missing: which one, such as 1g.10gb?")?,
            count: count.ok_or("count= is missing: how many instances has each GPU?")?,
        })
    }

    fn explain(&mut self) -> Result<Command, String> {
        let pod = self.name()?;
        let why_not = match self.rest.next() {
            None => None,
            Some("on") => Some(self.name()?),
            Some(other) => return Err(format!("{other:?} is not known; allowed: on")),
        };
        Ok(Command::Explain { pod, why_not })
    }

    fn expect(&mut self) -> Result<Command, String> {
        let pods = self.pods()?;
        let what = self.next("bound or refused")?;
        let kind = match what {
            "bound" => None,
            "refused" => Some(self.next("a reason, such as NotEnoughFree")?.to_owned()),
            other => return Err(format!("{other:?} is not known; allowed: bound, refused")),
        };
        let (mut node, mut gpus) = (None, None);
        while let Some(word) = self.rest.next() {
            match word {
                "on" => node = Some(self.name()?),
                "gpus" if kind.is_none() => {
                    gpus = Some(numbers(self.next("GPU indices, such as 0,3")?)?);
                }
                other => return Err(format!("{other:?} is not known; allowed: on, gpus")),
            }
        }
        let state = match kind {
            Some(kind) => Expected::Refused { kind, node },
            None => Expected::Bound { node, gpus },
        };
        Ok(Command::Expect { pods, state })
    }

    fn pods(&mut self) -> Result<Pods, String> {
        let name = self.name()?;
        Ok(match name.as_str() {
            "all" => Pods::All,
            _ => Pods::Named(name),
        })
    }

    fn name(&mut self) -> Result<String, String> {
        let name = self.next("a name")?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        if name.len() > 63 || !name.chars().all(is_plain) {
            return Err(format!(
                "{name:?} is no name; allowed: up to 63 letters, digits, - and ."
            ));
        }
        Ok(name.to_owned())
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let found = self.next(word)?;
        if found == word {
            Ok(())
        } else {
            Err(format!("{found:?} stands where {word:?} should"))
        }
    }

    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.rest.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn option(&mut self) -> Result<Option<(&'a str, &'a str)>, String> {
        let Some(word) = self.rest.next() else {
            return Ok(None);
        };
        let pair = word.split_once('=');
        pair.map(Some)
            .ok_or_else(|| format!("{word:?} is not of the form NAME=VALUE"))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let read = text.parse();
    read.map_err(|_| format!("{text:?} is no number that is allowed here"))
}

fn numbers(text: &str) -> Result<Vec<u32>, String> {
    text.split(',').map(number).collect()
}

fn counted(text: &str) -> Result<usize, String> {
    let count = number(text)?;
    if count > COUNT_MAX {
        return Err(format!("{count} are too many; at most {COUNT_MAX} at once"));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_and_comments_are_none() {
        let read =
            parse("# nothing\n\nnode a dgx1-v100 count=2  # two\nexpect p bound on a-0 gpus 3,1");
        let read = read.unwrap();
        assert_eq!(
            (read[0].line, read[0].text.as_str()),
            (3, "node a dgx1-v100 count=2")
        );
        assert_eq!(
            read[1].command,
            Command::Expect {
                pods: Pods::Named("p".to_owned()),
                state: Expected::Bound {
                    node: Some("a-0".to_owned()),
                    gpus: Some(vec![3, 1]),
                },
            }
        );
    }

    #[track_caller]
    fn check(text: &str, sentence: &str) {
        assert_eq!(
            parse(text).unwrap_err().to_string(),
            format!("line 1: {sentence}")
        );
    }

    #[test]
    fn a_mistake_names_its_line_and_what_is_allowed() {
        check(
            "prefer none",
            "\"none\" is not known; allowed: pack, spread",
        );
        check("node a", "a recorded machine is missing");
        check(
            "resource gpus",
            "\"gpus\" is no extended resource, such as nvidia.com/mig-1g.10gb",
        );
        check(
            "mig a 0 count=2",
            "profile= is missing: which one, such as 1g.10gb?",
        );
        check(
            "pod p",
            "gpus= is missing: how many GPUs does the pod ask for?",
        );
        check(
            "pod all gpus=1",
            "a pod cannot be called all: that means every pod",
        );
        check("pod p gpus=x", "\"x\" is no number that is allowed here");
        check("show me", "\"me\" is one word too many");
        check("other p at a gpus=1", "\"at\" stands where \"on\" should");
        check(
            "degrade a 1 lanes=0",
            "\"1\" are not two GPU indices, such as 0,3",
        );
        check(
            "node a/b dgx2",
            "\"a/b\" is no name; allowed: up to 63 letters, digits, - and .",
        );
        check(
            "pod p gpus=1 count=6000",
            "6000 are too many; at most 5000 at once",
        );
    }
}
