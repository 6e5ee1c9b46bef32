//! `config.json` of several families, in the spellings of their years.

use super::*;
use crate::config::{Activation, Graph, Local};
use crate::source::naming::ExpertNames;

const TEXT: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512, "eos_token_id": [1, 2]"#;

#[track_caller]
fn parsed(more: &str) -> Result<ModelConfig, String> {
    let text = format!("{TEXT}{more}}}");
    parse(text.as_bytes(), "m".to_owned())
        .map(|(config, _)| config)
        .map_err(|flaw| flaw.to_string())
}

#[test]
fn rope_is_read_from_its_three_spellings() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_positions: 8192.0,
    };
    let numbers = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192"#;
    let old =
        format!(r#", "rope_theta": 5e5, "rope_scaling": {{"rope_type": "llama3", {numbers}}}"#);
    let new =
        format!(r#", "rope_parameters": {{"rope_type": "llama3", "rope_theta": 5e5, {numbers}}}"#);
    for more in [old, new] {
        let rope = parsed(&more).unwrap().rope;
        assert_eq!(
            rope,
            Rope {
                theta: 5e5,
                rotated: 16,
                scaling: llama3.clone()
            }
        );
    }
    assert_eq!(parsed("").unwrap().rope.scaling, RopeScaling::None);
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |more: &str| parsed(more).unwrap_err();
    assert_eq!(
        refused(r#", "attention_bias": true"#),
        "a projection with bias is not supported"
    );
    assert_eq!(
        refused(r#", "hidden_act": "gelu""#),
        "activation \"gelu\" is not supported"
    );
    let dynamic = r#", "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}"#;
    assert_eq!(
        refused(dynamic),
        "rope scaling \"dynamic\" is not supported"
    );
    let other = br#"{"architectures": ["GPT2LMHeadModel"], "n_embd": 768}"#;
    let flaw = parse(other, "m".to_owned()).unwrap_err();
    assert_eq!(
        flaw.to_string(),
        "architecture GPT2LMHeadModel is not supported"
    );
}

/// The fields of a family's config that are not those of [`TEXT`].
#[track_caller]
fn family(architecture: &str, more: &str) -> (ModelConfig, Naming) {
    let text = TEXT.replace("LlamaForCausalLM", architecture);
    parse(format!("{text}, {more}}}").as_bytes(), "m".to_owned()).unwrap()
}

#[test]
fn qwen_has_windows_only_where_it_says_so() {
    let unused = r#""sliding_window": 64, "max_window_layers": 1, "use_sliding_window": false"#;
    let (qwen2, _) = family("Qwen2ForCausalLM", unused);
    assert!(qwen2.graph.qkv_bias && qwen2.graph.local.is_none());
    let used = r#""sliding_window": 64, "max_window_layers": 1, "use_sliding_window": true,
        "head_dim": 32"#;
    let (qwen3, _) = family("Qwen3ForCausalLM", used);
    assert!(qwen3.graph.head_norms && !qwen3.graph.qkv_bias);
    let local = qwen3.graph.local.unwrap();
    assert_eq!((local.window, local.layers), (64, vec![false, true]));
}

#[test]
fn mistral_s_window_is_null_or_its_default() {
    let window = |more| {
        let (config, _) = family("MistralForCausalLM", more);
        config.graph.local.map(|local| local.window)
    };
    assert_eq!(window(r#""sliding_window": null"#), None);
    assert_eq!(window(r#""sliding_window": 32"#), Some(32));
    assert_eq!(window(r#""rope_theta": 1e4"#), Some(4096));
}

#[test]
fn gemma_is_told_by_its_own_fields_in_both_spellings() {
    let both = r#""head_dim": 32, "query_pre_attn_scalar": 144, "sliding_window": 8,
        "hidden_activation": "gelu_pytorch_tanh""#;
    let caps = r#""attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0"#;
    let (gemma2, naming) = family("Gemma2ForCausalLM", &format!("{both}, {caps}"));
    assert!(gemma2.tied_embeddings && naming.has_norms_after);
    let expected = Graph {
        norms_after: true,
        norm_offset: 1.0,
        activation: Activation::GeluTanh,
        embedding_scale: 8.0,
        query_scale: Some(1.0 / 12.0),
        score_cap: Some(50.0),
        logit_cap: Some(30.0),
        local: Some(Local {
            window: 8,
            rope: gemma2.rope.clone(),
            layers: vec![true, false],
        }),
        ..Graph::llama()
    };
    assert_eq!(gemma2.graph, expected);
    let old = r#""rope_theta": 1e6, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}"#;
    let new = r#""layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}"#;
    for spelling in [old, new] {
        let (gemma3, _) = family("Gemma3ForCausalLM", &format!("{both}, {spelling}"));
        let scaling = RopeScaling::Linear { factor: 8.0 };
        assert_eq!((gemma3.rope.theta, gemma3.rope.scaling), (1e6, scaling));
        let local = gemma3.graph.local.unwrap();
        assert_eq!(local.rope, Rope::plain(10_000.0, 32));
        assert_eq!(local.layers, [true, false]);
        assert!(gemma3.graph.score_cap.is_none() && gemma3.graph.head_norms);
    }
}

#[test]
fn phi_s_longrope_turns_part_of_a_head() {
    let factors = r#""short_factor": [1, 1, 1, 1, 1, 1], "long_factor": [1, 1, 2, 2, 4, 4]"#;
    let more = format!(
        r#""original_max_position_embeddings": 64, "partial_rotary_factor": 0.75,
        "rope_scaling": {{"type": "su", {factors}}}"#
    );
    let (phi, naming) = family("Phi3ForCausalLM", &more);
    assert!(naming.is_joined);
    assert_eq!(phi.rope.rotated, 12);
    let RopeScaling::LongRope(long) = phi.rope.scaling else {
        panic!("it is longrope");
    };
    assert_eq!((long.original_positions, long.long[5]), (64.0, 4.0));
    // sqrt(1 + ln 8 / ln 64).
    assert!((long.magnitude - 1.5_f32.sqrt()).abs() < 1e-6);
}

#[test]
fn yarn_widens_the_context() {
    let more = r#""rope_scaling": {"type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 512}"#;
    let (qwen, _) = family("Qwen2ForCausalLM", more);
    assert_eq!(qwen.position_count_max, 2_048);
    let RopeScaling::Yarn(yarn) = qwen.rope.scaling else {
        panic!("it is yarn");
    };
    assert_eq!((yarn.beta_fast, yarn.beta_slow), (32.0, 1.0));
    assert!((yarn.magnitude - 1.138_629_4).abs() < 1e-6);
}

#[test]
fn mixtures_are_in_the_layers_that_the_file_says() {
    let (mixtral, naming) = family(
        "MixtralForCausalLM",
        r#""num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": null"#,
    );
    assert_eq!(naming.experts, ExpertNames::BlockSparse);
    let experts = mixtral.graph.experts.unwrap();
    assert_eq!((experts.count, experts.per_row), (8, 2));
    assert_eq!(
        (experts.intermediate_size, experts.is_normalised),
        (128, true)
    );
    let (qwen, _) = family(
        "Qwen3MoeForCausalLM",
        r#""num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32,
        "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [0]"#,
    );
    let experts = qwen.graph.experts.unwrap();
    assert_eq!(experts.layers, [false, true]);
    assert_eq!((experts.count, experts.intermediate_size), (16, 32));
}

#[test]
fn what_a_family_must_say_is_asked_for() {
    let missing = |architecture: &str, more: &str| {
        let text = TEXT.replace("LlamaForCausalLM", architecture);
        let text = format!("{text}, {more}}}");
        parse(text.as_bytes(), "m".to_owned())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        missing("Gemma2ForCausalLM", r#""sliding_window": 8"#),
        "head_dim: is missing"
    );
    assert_eq!(
        missing("MixtralForCausalLM", r#""sliding_window": null"#),
        "num_experts: is missing"
    );
    let strange = r#""sliding_window": 8, "layer_types": ["full_attention", "chunked_attention"]"#;
    assert_eq!(
        missing("MistralForCausalLM", strange),
        "layer type \"chunked_attention\" is not supported"
    );
}
