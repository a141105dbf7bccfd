//! Flags for a rerank endpoint, for the commands that can measure one instead of a model.

use clap::{Args, ValueEnum};

use super::{SettingsArgs, UsageError};
use crate::eval::endpoint::{Api, Endpoint};

#[derive(Debug, Args)]
pub(super) struct EndpointArgs {
    /// Measure the rerank endpoint at this URL instead of a model in this process
    #[arg(long, value_name = "URL", help_heading = "Endpoint")]
    url: Option<String>,
    /// Format of the endpoint's requests
    #[arg(long, value_name = "API", value_enum, default_value = "rerank", requires = "url", help_heading = "Endpoint")]
    api: ApiName,
    /// Model to request from the endpoint; several, separated by commas, are compared by podium
    /// eval
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "url", help_heading = "Endpoint")]
    url_model: Vec<String>,
    /// Environment variable with the endpoint's API key (sent as a bearer token)
    #[arg(long, value_name = "NAME", requires = "url", help_heading = "Endpoint")]
    api_key_env: Option<String>,
}

/// Format of an endpoint's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ApiName {
    /// Cohere, Jina, vLLM, Podium: `documents`, results with a `relevance_score`
    Rerank,
    /// Voyage: `documents` and `top_k`, data with a `relevance_score`
    Voyage,
    /// Text Embeddings Inference: `texts`, rows with a `score`
    Tei,
}

impl EndpointArgs {
    /// Refuses the flags of a local model beside `--url`.
    pub(super) fn check(&self, settings: &SettingsArgs) -> Result<(), UsageError> {
        let SettingsArgs { config: _, model, revision, family, device, dtype, quantize, offline } = settings;
        let has_model_flag =
            [model, revision, family, device, dtype, quantize].into_iter().any(Option::is_some) || *offline;
        if self.url.is_some() && has_model_flag {
            return Err(UsageError(
                "--model, --revision, --family, --device, --dtype, --quantize and --offline cannot be used with --url; \
                 use --url-model to name the endpoint's model"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether an endpoint was given.
    pub(super) fn is_set(&self) -> bool {
        self.url.is_some()
    }

    /// Whether the endpoint's API lacks Podium's options (instruction, profile, ...).
    pub(super) fn is_foreign_api(&self) -> bool {
        self.url.is_some() && self.api != ApiName::Rerank
    }

    /// Whether several models of the endpoint were given.
    pub(super) fn has_several_models(&self) -> bool {
        self.url_model.len() > 1
    }

    /// The endpoint, if one was given.
    pub(super) fn endpoint(&self) -> anyhow::Result<Option<Endpoint>> {
        if self.has_several_models() {
            return Err(UsageError("--url-model: give one name; podium eval compares several".to_owned()).into());
        }
        Ok(self.endpoints()?.pop())
    }

    /// The endpoint for each of its models; none without a URL.
    pub(super) fn endpoints(&self) -> anyhow::Result<Vec<Endpoint>> {
        let Some(url) = &self.url else { return Ok(Vec::new()) };
        let key = match &self.api_key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_owned()),
                _ => {
                    return Err(UsageError(format!(
                        "--api-key-env: the environment variable {name} is not set or empty"
                    ))
                    .into());
                }
            },
        };
        let api = match self.api {
            ApiName::Rerank => Api::Rerank,
            ApiName::Voyage => Api::Voyage,
            ApiName::Tei => Api::Tei,
        };
        let endpoint = |model: Option<String>| Ok(Endpoint::new(url, api, model, key.clone())?);
        if self.url_model.is_empty() {
            return Ok(vec![endpoint(None)?]);
        }
        self.url_model.iter().cloned().map(Some).map(endpoint).collect()
    }
}
