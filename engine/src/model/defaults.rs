//! `generation_config.json`: the sampling that a model's makers recommend.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

const FILE: &str = "generation_config.json";
/// Real ones have a few hundred.
const BYTES_MAX: u64 = 1 << 20;

/// What a request that says nothing gets; absent where the model says nothing either. The same
/// fields as vLLM reads (`ModelConfig.get_diff_sampling_param`); `do_sample` is not among them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Defaults {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    #[serde(default, deserialize_with = "top_k")]
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    /// Of answers to chats.
    #[serde(rename = "max_new_tokens")]
    pub(crate) max_tokens: Option<usize>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is there, but cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not the JSON that it should be.
    #[error("parsing {} (--generation-config vllm does without)", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// No request could say that either.
    #[error("{name} of {} is out of range (--generation-config vllm does without)", path.display())]
    Range {
        /// Which file.
        path: PathBuf,
        /// Which field.
        name: &'static str,
    },
}

// === impl Defaults ===

impl Defaults {
    /// Of a model folder; nothing where it has no such file.
    ///
    /// # Errors
    /// When the file is there and not sound.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let mut text = String::new();
        let read =
            File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Read { path, source }),
        }
        let defaults: Self = match serde_json::from_str(&text) {
            Ok(defaults) => defaults,
            Err(source) => return Err(Error::Parse { path, source }),
        };
        match defaults.fault() {
            Some(name) => Err(Error::Range { path, name }),
            None => Ok(defaults),
        }
    }

    /// The first field that no request could say.
    fn fault(&self) -> Option<&'static str> {
        let is = |number: Option<f32>, good: fn(f32) -> bool| number.is_none_or(good);
        let checks = [
            (
                "temperature",
                is(self.temperature, |it| it.is_finite() && it >= 0.0),
            ),
            ("top_p", is(self.top_p, |it| it > 0.0 && it <= 1.0)),
            ("min_p", is(self.min_p, |it| (0.0..=1.0).contains(&it))),
            (
                "repetition_penalty",
                is(self.repetition_penalty, |it| it.is_finite() && it > 0.0),
            ),
            ("max_new_tokens", self.max_tokens != Some(0)),
        ];
        let fault = checks.into_iter().find(|(_, good)| !good);
        fault.map(|(name, _)| name)
    }
}

/// -1 keeps all, as 0 does, and as in a request.
fn top_k<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = |top_k| match top_k {
        -1 => Ok(0),
        top_k => u32::try_from(top_k).map_err(|_| D::Error::custom("`top_k` is out of range")),
    };
    let top_k = Option::<i64>::deserialize(deserializer)?;
    top_k.map(number).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Defaults, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        Defaults::read(folder.path())
    }

    #[test]
    fn what_the_makers_recommend_is_read_and_the_rest_left_alone() {
        let text = r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
                       "eos_token_id": [1, 2], "max_new_tokens": 2048, "min_p": null}"#;
        let expected = Defaults {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            max_tokens: Some(2048),
            ..Defaults::default()
        };
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn a_top_k_of_minus_one_keeps_all() {
        assert_eq!(read(r#"{"top_k": -1}"#).unwrap().top_k, Some(0));
        assert_eq!(read(r#"{"top_k": null}"#).unwrap().top_k, None);
        assert!(read(r#"{"top_k": -2}"#).is_err());
    }

    #[test]
    fn a_folder_without_the_file_recommends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Defaults::read(folder.path()).unwrap(), Defaults::default());
    }

    #[test]
    fn what_is_not_sound_names_file_and_field() {
        let error = read(r#"{"top_p": 1.5}"#).unwrap_err().to_string();
        assert!(error.starts_with("top_p of "), "{error}");
        let error = read(r#"{"temperature": "hot"}"#).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }
}
