//! Why no test can or need notice a mutant: tests/mutants/reasons.txt, which explains itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::Result;
use crate::mutate::Mutant;

/// The reason of each mutant, by its name.
pub struct Reasons(BTreeMap<String, String>);

impl Reasons {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut reasons: BTreeMap<String, String> = BTreeMap::new();
        let mut about: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let number = number + 1;
            if line.starts_with(' ') {
                let name = about
                    .as_ref()
                    .ok_or_else(|| format!("line {number} is a reason for nothing"))?;
                let reason = reasons.entry(name.clone()).or_default();
                if !reason.is_empty() {
                    reason.push(' ');
                }
                reason.push_str(line.trim());
            } else {
                let name = line.trim_end().to_owned();
                if reasons.insert(name.clone(), String::new()).is_some() {
                    return Err(format!("line {number}: \"{name}\" has a reason already"));
                }
                about = Some(name);
            }
        }
        if let Some((name, _)) = reasons.iter().find(|(_, reason)| reason.is_empty()) {
            return Err(format!("\"{name}\" has no reason"));
        }
        Ok(Self(reasons))
    }

    pub fn has(&self, mutant: &Mutant) -> bool {
        self.0.contains_key(&mutant.name)
    }

    /// Fails if one is about code that is no more.
    pub fn all_match(&self, mutants: &[Mutant]) -> Result<()> {
        let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
        let lost: Vec<&str> = self
            .0
            .keys()
            .map(String::as_str)
            .filter(|name| !names.contains(name))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!(
            "these reasons are not needed any more, for there is no such mutant:\n{}",
            lost.join("\n")
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::Reasons;
    use crate::mutate::Mutant;

    fn mutant(name: &str) -> Mutant {
        Mutant {
            number: 0,
            file: String::new(),
            line: 1,
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_reason_may_have_lines() {
        let reasons =
            Reasons::parse("# comment\n\nm::f: returns 0\n    Nobody\n    calls it.\n").unwrap();
        assert_eq!(reasons.0["m::f: returns 0"], "Nobody calls it.");
        assert!(reasons.has(&mutant("m::f: returns 0")));
        assert!(!reasons.has(&mutant("m::f: returns 1")));
    }

    #[test]
    fn a_name_without_a_reason_a_reason_without_a_name_and_two_for_one_are_errors() {
        for text in ["m::f: returns 0\n", "    why\n", "a\n    why\na\n    why\n"] {
            assert!(Reasons::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reason_for_code_that_is_no_more_is_an_error() {
        let reasons = Reasons::parse("m::f: returns 0\n    why\n").unwrap();
        reasons.all_match(&[mutant("m::f: returns 0")]).unwrap();
        let error = reasons.all_match(&[mutant("m::g: returns 0")]).unwrap_err();
        assert!(error.ends_with("m::f: returns 0"), "{error}");
    }
}
