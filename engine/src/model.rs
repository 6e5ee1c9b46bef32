//! Opens a model and decides how it is run: ranks, KV cache, limits.
//!
//! Reads headers and the vocabulary only; weights are loaded later, by each rank on its thread.

use std::sync::Arc;

use berth_engine_core::batch::TokenId;
use berth_engine_core::policy::Policy;
use berth_engine_core::schedule::{Limits, Rules};
use berth_engine_model::backend::CacheShape;
use berth_engine_model::config::ModelConfig;
use berth_engine_model::cpu::Unserved;
use berth_engine_model::quantization::Quantization;
use berth_engine_model::source::{GgufTokenizer, ModelSource, OpenError, TokenizerFiles};
use berth_engine_text::{ChatTemplate, GgufVocab, LoadError, TemplateError, Tokenizer};

use crate::args::{self, Device, GenerationConfig, ModelArgs, SchedulingPolicy};
use crate::assign::{self, Identity, Places, read_machine};
use crate::rank::LoadBackend;

mod cache_memory;
mod choice;
mod defaults;

pub(crate) use choice::Choice;

use cache_memory::Memory;
pub(crate) use defaults::Defaults;

/// A model ready to be loaded.
pub(crate) struct Model {
    pub(crate) text: ModelText,
    pub(crate) limits: Limits,
    pub(crate) places: Places,
    pub(crate) load: Arc<LoadBackend>,
    /// What computes.
    pub(crate) backend: Choice,
    /// The file's name without its ending.
    pub(crate) name: String,
    pub(crate) vocab_size: usize,
}

/// The text side of a model.
#[derive(Clone, Debug)]
pub(crate) struct ModelText {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Models that only complete have none.
    pub(crate) template: Option<Arc<ChatTemplate>>,
    /// Tokens that end an answer.
    pub(crate) eos: Vec<TokenId>,
    /// Sampling where requests say nothing.
    pub(crate) defaults: Defaults,
}

/// Why a model cannot be run as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such backend here.
    #[error("--device cuda: this build has no CUDA backend yet; use --device cpu")]
    NoCuda,
    /// The CPU backend was asked for by name.
    #[error("--backend cpu cannot run this model: use --backend reference")]
    Unserved(#[source] Unserved),
    /// The CPU backend has no weights in f32.
    #[error(
        "--backend cpu holds weights in bf16 or as they are quantised: leave --dtype away, or use \
         --backend reference"
    )]
    NotF32,
    /// It would do nothing.
    #[error(
        "--cpu-tier and --cpu-kernels pick kernels of the CPU backend, which --backend reference \
         does not use"
    )]
    KernelsOfReference,
    /// The reference backend would do without.
    #[error(
        "--quantization int8 and int4 are of the CPU backend: leave --backend and --dtype away"
    )]
    QuantizedReference,
    /// The file or folder is not sound.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The vocabulary is not sound.
    #[error("reading the vocabulary of {model}")]
    Tokenizer {
        /// The model's path.
        model: String,
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
    /// The chat template is not sound.
    #[error("compiling the chat template of {model}")]
    Template {
        /// The model's path.
        model: String,
        /// What is wrong with it.
        #[source]
        source: TemplateError,
    },
    /// The recommended sampling is not sound.
    #[error("reading the model's default sampling")]
    Defaults(#[from] defaults::Error),
    /// There are no ranks.
    #[error("deciding where ranks run")]
    Assign(#[from] assign::Error),
    /// More ranks than parts.
    #[error(
        "{degree} ranks cannot share a model with {kv_head_count} KV heads: use at most that many"
    )]
    Degree {
        /// Ranks.
        degree: usize,
        /// Parts of the model.
        kv_head_count: usize,
    },
    /// Positions that the model was never trained for.
    #[error(
        "--max-model-len {asked} is above the {trained} positions that the model was trained for: ask \
         for at most that"
    )]
    ModelLen {
        /// The flag.
        asked: usize,
        /// The model's own.
        trained: usize,
    },
    /// Not one sequence fits.
    #[error(
        "a KV cache of {cache_bytes} bytes holds {held} tokens, but {wanted} are wanted: give \
         --kv-cache-memory {needed_bytes}, or at most --max-model-len {held}"
    )]
    Cache {
        /// The cache.
        cache_bytes: u64,
        /// Tokens it holds.
        held: usize,
        /// Tokens of the longest sequence.
        wanted: usize,
        /// What would do.
        needed_bytes: u64,
    },
    /// Weights leave nothing for a cache.
    #[error(
        "{model} takes {weight_mb} MB of weights, {beside_mb} MB beside them and a KV cache, but \
         {available_mb} MB are available: give it more memory, or a model of at most \
         {fitting_mb} MB; --kv-cache-memory overrides this"
    )]
    NoRoom {
        /// The model's name.
        model: String,
        /// Its weights.
        weight_mb: u64,
        /// What the process takes else.
        beside_mb: u64,
        /// What there is.
        available_mb: u64,
        /// Weights that would leave something.
        fitting_mb: u64,
    },
    /// The flag does not match the file.
    #[error("--quantization gguf: {model} is a folder, not a GGUF file; leave the flag away")]
    NotGguf {
        /// The model's path.
        model: String,
    },
}

/// Opens the model that `args` name.
///
/// # Errors
/// When it is not sound, or cannot be run as asked.
pub(crate) fn open(args: &ModelArgs) -> Result<Model, Error> {
    if args.device == Device::Cuda {
        return Err(Error::NoCuda);
    }
    let mut source = ModelSource::open(&args.model)?;
    if let Some(longest) = args.max_model_len {
        source.limit_positions(longest);
    }
    quantise(args, &mut source)?;
    let source = Arc::new(source);
    let config = source.config();
    let places = places(args, config)?;
    let backend = choice::choose(args, &source, places.places.len())?;
    let weight_bytes = backend.weight_bytes(&source, places.places.len())?;
    let memory = Memory::read(&places.places, weight_bytes);
    let (limits, cache) = limits(args, config, backend, memory)?;
    Ok(Model {
        text: text(&source, args.generation_config)?,
        limits,
        places,
        name: name_of(args),
        vocab_size: config.vocab_size,
        load: backend.loader(Arc::clone(&source), cache),
        backend,
    })
}

fn quantise(args: &ModelArgs, source: &mut ModelSource) -> Result<(), Error> {
    let is_folder = matches!(source.tokenizer(), TokenizerFiles::Folder(_));
    match args.quantization {
        Some(args::Quantization::Int8) => source.quantise(Quantization::Int8),
        Some(args::Quantization::Int4) => source.quantise(Quantization::Int4),
        Some(args::Quantization::Gguf) if is_folder => {
            return Err(Error::NotGguf {
                model: args.model.display().to_string(),
            });
        }
        Some(args::Quantization::Gguf) | None => {}
    }
    Ok(())
}

fn places(args: &ModelArgs, config: &ModelConfig) -> Result<Places, Error> {
    let degree = args.tensor_parallel_size;
    // Before anything is made for each rank: the flag may say any number.
    check_degree(degree.unwrap_or(1), config)?;
    let machine = read_machine();
    let file = args.assignment.as_deref();
    let places = assign::resolve(
        &Identity::read(|name| std::env::var(name).ok()),
        file,
        degree,
        &machine,
    )?;
    check_degree(places.places.len(), config)?;
    Ok(places)
}

fn check_degree(degree: usize, config: &ModelConfig) -> Result<(), Error> {
    let kv_head_count = config.kv_head_count;
    if degree > kv_head_count {
        return Err(Error::Degree {
            degree,
            kv_head_count,
        });
    }
    Ok(())
}

fn no_room(config: &ModelConfig, memory: Memory) -> Error {
    let [available_mb, weight_mb, beside_mb] = memory.megabytes();
    Error::NoRoom {
        model: config.name.clone(),
        weight_mb,
        beside_mb,
        available_mb,
        fitting_mb: (available_mb / 10 * 9).saturating_sub(beside_mb),
    }
}

/// The scheduler's bounds and the cache behind them. Where nothing was said, the longest sequence
/// is what the model was trained for, or what fits.
fn limits(
    args: &ModelArgs,
    config: &ModelConfig,
    backend: Choice,
    memory: Memory,
) -> Result<(Limits, CacheShape), Error> {
    let block_size = args.block_size;
    let block_bytes = backend.block_bytes(config, block_size).max(1);
    let cache_bytes = match args.kv_cache_memory {
        Some(asked) => asked,
        None if memory.cache_bytes() < block_bytes => return Err(no_room(config, memory)),
        None => memory.cache_bytes(),
    };
    let held_blocks = usize::try_from(cache_bytes / block_bytes).unwrap_or(usize::MAX);
    let held = held_blocks.saturating_mul(block_size);
    let trained = config.position_count_max;
    let max_model_len = match args.max_model_len {
        Some(asked) if asked > trained => return Err(Error::ModelLen { asked, trained }),
        Some(asked) => asked,
        None => trained.min(held.max(1)),
    };
    let needed_blocks = max_model_len.div_ceil(block_size);
    if needed_blocks > held_blocks {
        let needed_bytes = block_bytes.saturating_mul(needed_blocks as u64);
        return Err(Error::Cache {
            cache_bytes,
            held,
            wanted: max_model_len,
            needed_bytes,
        });
    }
    // No more than all sequences at their longest could use.
    let useful_blocks = needed_blocks.saturating_mul(args.max_num_seqs);
    // One id is kept by the list of free blocks.
    let block_count = u32::try_from(held_blocks.min(useful_blocks))
        .unwrap_or(u32::MAX)
        .min(u32::MAX - 1);
    let limits = Limits {
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args
            .max_num_batched_tokens
            .unwrap_or_else(|| backend.step_tokens()),
        max_model_len,
        block_size,
        block_count,
        // The server sets its own.
        max_waiting: args.max_num_seqs,
        rules: rules(args),
    };
    Ok((
        limits,
        CacheShape {
            block_size,
            block_count: block_count as usize,
        },
    ))
}

fn rules(args: &ModelArgs) -> Rules {
    Rules {
        policy: match args.scheduling_policy {
            SchedulingPolicy::Fcfs => Policy::Fcfs,
            SchedulingPolicy::Priority => Policy::Priority,
            SchedulingPolicy::Deadline => Policy::Deadline,
            SchedulingPolicy::Fair => Policy::Fair,
        },
        prefix_caching: !args.no_enable_prefix_caching,
        max_step: args.max_step_ms,
    }
}

fn text(source: &ModelSource, config: GenerationConfig) -> Result<ModelText, Error> {
    let defaults = match (config, source.tokenizer()) {
        (GenerationConfig::Auto, TokenizerFiles::Folder(folder)) => Defaults::read(folder)?,
        _ => Defaults::default(),
    };
    let model = || source.path().display().to_string();
    let loaded = match source.tokenizer() {
        TokenizerFiles::Gguf(gguf) => Tokenizer::from_gguf(vocab(gguf)),
        TokenizerFiles::Folder(folder) => Tokenizer::from_folder(folder),
    };
    let tokenizer = loaded.map_err(|source| Error::Tokenizer {
        model: model(),
        source,
    })?;
    let template = tokenizer
        .chat_template()
        .map(|source| ChatTemplate::new(source, tokenizer.special_tokens()))
        .transpose()
        .map_err(|source| Error::Template {
            model: model(),
            source,
        })?;
    let mut eos = source.config().eos.clone();
    eos.extend_from_slice(tokenizer.eos_ids());
    eos.sort_unstable();
    eos.dedup();
    Ok(ModelText {
        tokenizer: Arc::new(tokenizer),
        template: template.map(Arc::new),
        eos,
        defaults,
    })
}

fn vocab(gguf: &GgufTokenizer) -> GgufVocab {
    GgufVocab {
        model: gguf.model.clone(),
        pre: gguf.pre.clone().unwrap_or_else(|| "default".to_owned()),
        tokens: gguf.tokens.clone(),
        merges: gguf.merges.clone(),
        scores: gguf.scores.clone(),
        unknown: gguf.unknown,
        add_space_prefix: gguf.add_space_prefix,
        token_types: gguf.token_types.clone(),
        bos: gguf.bos,
        eos: gguf.eos,
        eot: gguf.eot,
        pad: gguf.padding,
        add_bos: gguf.add_bos,
        add_eos: None,
        chat_template: gguf.chat_template.clone(),
    }
}

fn name_of(args: &ModelArgs) -> String {
    let path = &args.model;
    let is_gguf = path
        .extension()
        .is_some_and(|extension| extension == "gguf");
    let name = if is_gguf {
        path.file_stem()
    } else {
        path.file_name()
    };
    name.map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
