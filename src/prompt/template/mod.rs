//! Prompt templates. A caller's text never goes through the template engine: a template renders to
//! parts with places for texts ([`Template`]), and the texts are put in and encoded afterwards
//! ([`Frame`]).

mod frame;
mod parts;

pub(super) use frame::{EncodedPrompt, Frame, Run, Step};
pub(super) use parts::{Part, Template, TemplateInputs};
