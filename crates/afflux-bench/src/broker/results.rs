//! What was measured, kept in a file, so that a long run that ends early is gone on with.
//!
//! A line holds the figures of one round of one case. A case is done once it has all its rounds;
//! what the file holds is not measured again. Quick rounds and long ones do not mix. Which build
//! was measured the file does not know: begin a new one for another.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::sample;

/// Figures by name.
pub(crate) type Figures = BTreeMap<String, f64>;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    case: String,
    quick: bool,
    round: usize,
    figures: Figures,
}

/// Cases, in rounds.
#[derive(Debug)]
pub(crate) struct Results {
    file: Option<File>,
    known: HashMap<(String, usize), Figures>,
    quick: bool,
    rounds: usize,
    until: Option<Instant>,
}

impl Results {
    /// With what an earlier run left in the file, if one is named. After so long no further round
    /// is begun.
    pub(crate) fn open(
        path: Option<&Path>,
        quick: bool,
        rounds: usize,
        length_max: Option<Duration>,
    ) -> Result<Self> {
        let until = length_max.map(|length| Instant::now() + length);
        let mut results = Self { file: None, known: HashMap::new(), quick, rounds, until };
        if let Some(path) = path {
            let file = File::options().create(true).append(true).open(path);
            let mut file = file.with_context(|| path.display().to_string())?;
            let text = fs::read_to_string(path)?;
            // A line that a run was cut off in does not count.
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
            for line in lines.filter(|line| line.quick == quick) {
                results.known.insert((line.case, line.round), line.figures);
            }
            if !text.is_empty() && !text.ends_with('\n') {
                file.write_all(b"\n")?;
            }
            results.file = Some(file);
        }
        Ok(results)
    }

    /// The medians of a case's rounds; those that are missing are measured.
    pub(crate) fn case(
        &mut self,
        case: &str,
        mut measure: impl FnMut(usize) -> Result<Figures>,
    ) -> Result<Figures> {
        let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for round in 0..self.rounds {
            for (name, value) in self.round(case, round, &mut measure)? {
                all.entry(name).or_default().push(value);
            }
        }
        Ok(all.into_iter().map(|(name, mut of)| (name, sample::median(&mut of))).collect())
    }

    fn round(
        &mut self,
        case: &str,
        round: usize,
        measure: &mut impl FnMut(usize) -> Result<Figures>,
    ) -> Result<Figures> {
        if let Some(known) = self.known.get(&(case.to_owned(), round)) {
            return Ok(known.clone());
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            bail!("the time is over before {case}, round {round}; the same command goes on there");
        }
        let figures = measure(round).with_context(|| format!("{case}, round {round}"))?;
        let line = Line { case: case.to_owned(), quick: self.quick, round, figures };
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", serde_json::to_string(&line)?).context("keep a result")?;
        }
        Ok(line.figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_it_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results");
        let open = |quick| Results::open(Some(&path), quick, 3, None).unwrap();
        let mut measured = Vec::new();
        let outcome = open(false).case("a", |round| {
            if round == 2 {
                bail!("cut off");
            }
            measured.push(round);
            Ok(Figures::from([("x".to_owned(), 10.0 * round as f64)]))
        });
        assert!(outcome.is_err());
        let half = r#"{"case":"a","quick":false,"round":2,"fig"#;
        fs::write(&path, fs::read_to_string(&path).unwrap() + half).unwrap();
        for _ in 0..2 {
            let medians = open(false).case("a", |round| {
                measured.push(round);
                Ok(Figures::from([("x".to_owned(), 5.0)]))
            });
            assert_eq!(medians.unwrap(), Figures::from([("x".to_owned(), 5.0)]));
        }
        assert_eq!(measured, [0, 1, 2]);
        // Quick rounds are others.
        assert!(open(true).case("a", |_| bail!("measured")).is_err());
    }

    #[test]
    fn no_round_begins_after_the_time() {
        let mut results = Results::open(None, true, 1, Some(Duration::ZERO)).unwrap();
        let error = results.case("a", |_| panic!("measured")).unwrap_err();
        assert!(error.to_string().contains("goes on"), "{error}");
    }
}
