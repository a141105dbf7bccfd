//! Qwen2 and Qwen3 decoders over packed passes, from mistral.rs's parts.
