//! Which host an app's units may be on, and where the next one is made. Pure.

use std::collections::BTreeMap;

use towline_protocol::Name;

use crate::manifest::HostChoice;

/// A host, as far as choosing goes. They come in the order of their names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) name: Option<&'a Name>,
    pub(super) labels: &'a BTreeMap<String, String>,
    /// Whether its engine answered when it was asked last.
    pub(super) answers: bool,
    /// Whether it has answered since the agent came.
    pub(super) looked: bool,
    /// Whether it has units of the app, or may have one that was made when it fell silent.
    pub(super) has_units: bool,
}

impl Candidate<'_> {
    /// Whether the app may be here.
    pub(super) fn is_meant_by(&self, choice: Option<&HostChoice>) -> bool {
        match choice {
            None => true,
            Some(HostChoice::Named(name)) => self.name == Some(name),
            Some(HostChoice::Labelled(labels)) => {
                labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            }
        }
    }
}

/// Whether there is a host for it.
///
/// # Errors
/// What was found, and what there is.
pub(super) fn admit(choice: Option<&HostChoice>, hosts: &[Candidate<'_>]) -> Result<(), String> {
    let Some(choice) = choice.filter(|choice| !hosts.iter().any(|host| host.is_meant_by(Some(choice))))
    else {
        return Ok(());
    };
    let names: Vec<&str> = hosts.iter().filter_map(|host| Some(host.name?.as_str())).collect();
    Err(match choice {
        _ if names.is_empty() => {
            format!("found {choice}, but no hosts are configured (--config of the agent); remove it")
        }
        HostChoice::Named(name) => format!("there is no host {name}, there are {}", names.join(", ")),
        HostChoice::Labelled(_) => format!("no host bears {choice}; there are {}", names.join(", ")),
    })
}

/// The hosts that must be known before anything is planned for an app: those that have units of it, and those where it may
/// be. Of these a silent one is left out if it had none when it last answered, and another one answers: a lost host is to
/// delay nobody.
pub(super) fn concerned(choice: Option<&HostChoice>, hosts: &[Candidate<'_>]) -> Vec<usize> {
    let another_answers = hosts.iter().any(|host| host.answers && host.is_meant_by(choice));
    let is_concerned = |host: &Candidate<'_>| {
        let had_none = host.looked && !host.answers && another_answers;
        host.has_units || (host.is_meant_by(choice) && !had_none)
    };
    hosts.iter().enumerate().filter(|(_, host)| is_concerned(host)).map(|(index, _)| index).collect()
}

/// Where the next unit is made: beside those that are there already, else on the first host, of those that answer. None
/// where none does.
pub(super) fn choose(choice: Option<&HostChoice>, hosts: &[Candidate<'_>]) -> Option<usize> {
    let meant = hosts.iter().enumerate().filter(|(_, host)| host.answers && host.is_meant_by(choice));
    // The first of equals.
    meant.rev().max_by_key(|(_, host)| host.has_units).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(hosts: &[(&str, &str, bool, usize)], ask: impl FnOnce(&[Candidate<'_>]) -> T) -> T {
        let owned: Vec<(Name, BTreeMap<String, String>)> = hosts
            .iter()
            .map(|(name, disk, ..)| {
                (name.parse().unwrap(), BTreeMap::from([("disk".to_owned(), (*disk).to_owned())]))
            })
            .collect();
        let candidates: Vec<Candidate<'_>> = owned
            .iter()
            .zip(hosts)
            .map(|((name, labels), (_, _, answers, units))| Candidate {
                name: Some(name),
                labels,
                answers: *answers,
                looked: true,
                has_units: *units > 0,
            })
            .collect();
        ask(&candidates)
    }

    fn chosen(choice: &str, hosts: &[(&str, &str, bool, usize)]) -> Option<usize> {
        let choice = (!choice.is_empty()).then(|| choice.parse::<HostChoice>().unwrap());
        with(hosts, |hosts| choose(choice.as_ref(), hosts))
    }

    #[test]
    fn f_v2_the_first_that_matches_and_answers_is_chosen() {
        let hosts =
            [("a", "hdd", true, 0), ("b", "ssd", false, 0), ("c", "ssd", true, 0), ("d", "ssd", true, 0)];
        assert_eq!(chosen("", &hosts), Some(0));
        assert_eq!(chosen("disk=ssd", &hosts), Some(2), "the first of them does not answer");
        assert_eq!(chosen("d", &hosts), Some(3));
        assert_eq!(chosen("b", &hosts), None, "nobody else will do");
        assert_eq!(chosen("disk=tape", &hosts), None);
    }

    #[test]
    fn units_of_one_app_stay_together() {
        let hosts = [("a", "ssd", true, 0), ("b", "ssd", true, 2), ("c", "ssd", true, 1)];
        assert_eq!(chosen("disk=ssd", &hosts), Some(1));
        assert_eq!(chosen("a", &hosts), Some(0), "unless it is to be elsewhere");
    }

    #[test]
    fn a_lost_host_concerns_those_alone_that_are_or_may_be_there() {
        let concerned = |choice: &str, hosts: &[(&str, &str, bool, usize)]| {
            let choice = (!choice.is_empty()).then(|| choice.parse::<HostChoice>().unwrap());
            with(hosts, |hosts| concerned(choice.as_ref(), hosts))
        };
        let hosts = [("a", "ssd", false, 0), ("b", "ssd", true, 0), ("c", "hdd", true, 0)];
        assert_eq!(concerned("b", &hosts), [1]);
        assert_eq!(concerned("a", &hosts), [0], "nobody else will do");
        assert_eq!(concerned("disk=ssd", &hosts), [1], "it had none, and there is another");
        assert_eq!(concerned("", &hosts), [1, 2]);
        let moved = [("a", "ssd", false, 1), ("b", "ssd", true, 0), ("c", "hdd", true, 0)];
        assert_eq!(concerned("b", &moved), [0, 1], "where it was before, too");
        with(&hosts, |hosts| {
            let never = [Candidate { looked: false, ..hosts[0] }, hosts[1]];
            assert_eq!(super::concerned(None, &never), [0, 1], "nobody knows what is there");
            assert_eq!(super::concerned(Some(&"b".parse().unwrap()), &never), [1]);
        });
    }

    #[test]
    fn f_v2_a_host_that_there_is_not_is_refused_with_those_that_there_are() {
        let hosts = [("a", "hdd", true, 0), ("b", "ssd", false, 0)];
        let admitted = |choice: &str| {
            let choice: HostChoice = choice.parse().unwrap();
            with(&hosts, |hosts| admit(Some(&choice), hosts))
        };
        assert_eq!(admitted("b"), Ok(()), "it need not answer");
        assert_eq!(admitted("disk=ssd"), Ok(()));
        assert_eq!(admitted("c"), Err("there is no host c, there are a, b".to_owned()));
        assert_eq!(admitted("disk=tape"), Err("no host bears disk=tape; there are a, b".to_owned()));
        let nowhere = admit(Some(&"a".parse().unwrap()), &[]).unwrap_err();
        assert!(nowhere.contains("no hosts are configured"), "{nowhere}");
    }
}
