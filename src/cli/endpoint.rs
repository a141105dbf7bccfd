//! The flags that name a rerank endpoint, for the commands that can use one in place of a model.

use clap::{Args, ValueEnum};

use super::{SettingsArgs, UsageError};
use crate::eval::endpoint::{Api, Endpoint};

#[derive(Debug, Args)]
pub(super) struct EndpointArgs {
    /// Use a rerank endpoint instead of a model in this process
    #[arg(long, value_name = "URL", help_heading = "Endpoint")]
    url: Option<String>,
    /// The shape of its requests
    #[arg(long, value_name = "API", value_enum, default_value = "rerank", requires = "url", help_heading = "Endpoint")]
    api: ApiName,
    /// The model that it is asked for
    #[arg(long, value_name = "NAME", requires = "url", help_heading = "Endpoint")]
    url_model: Option<String>,
    /// The environment variable that holds its bearer key
    #[arg(long, value_name = "NAME", requires = "url", help_heading = "Endpoint")]
    api_key_env: Option<String>,
}

/// The shape of an endpoint's requests.
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
    /// Refuses flags about a model in this process where none runs.
    pub(super) fn check(&self, settings: &SettingsArgs) -> Result<(), UsageError> {
        let SettingsArgs { config: _, model, revision, family, device, dtype, quantize, offline } = settings;
        let about_a_model =
            [model, revision, family, device, dtype, quantize].into_iter().any(Option::is_some) || *offline;
        if self.url.is_some() && about_a_model {
            return Err(UsageError(
                "--model, --revision, --family, --device, --dtype, --quantize and --offline say what runs in this process; with --url use --url-model"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether an endpoint was named.
    pub(super) fn is_set(&self) -> bool {
        self.url.is_some()
    }

    /// Whether requests go to an endpoint that does not know Podium's options.
    pub(super) fn is_foreign_api(&self) -> bool {
        self.url.is_some() && self.api != ApiName::Rerank
    }

    /// The endpoint, if one was named.
    pub(super) fn endpoint(&self) -> anyhow::Result<Option<Endpoint>> {
        let Some(url) = &self.url else { return Ok(None) };
        let key = match &self.api_key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_owned()),
                _ => return Err(UsageError(format!("--api-key-env: the variable {name} is not set")).into()),
            },
        };
        let api = match self.api {
            ApiName::Rerank => Api::Rerank,
            ApiName::Voyage => Api::Voyage,
            ApiName::Tei => Api::Tei,
        };
        Ok(Some(Endpoint::new(url, api, self.url_model.clone(), key)?))
    }
}
