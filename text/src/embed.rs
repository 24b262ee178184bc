//! The static embedding model that ships with the binary.
//!
//! A text's vector is the mean of its tokens' rows, made unit length; there is no network, so a query takes
//! microseconds. The rows are read from the binary's own read-only pages and never copied.

use crate::pieces::Pieces;
use std::sync::OnceLock;

static TENSORS: &[u8] = include_bytes!("../models/static-en-zh-256/model.safetensors");
static TOKENIZER: &[u8] = include_bytes!("../models/static-en-zh-256/tokenizer.json");

/// The model in the binary does not have the form that this code reads.
#[derive(Debug, thiserror::Error)]
#[error("the embedding model is unusable: {0}")]
pub struct EmbedError(String);

/// A loaded model.
pub struct Embedder {
    pieces: Pieces,
    /// One row of int8 values a token.
    rows: &'static [u8],
    /// One scale a row.
    weights: Vec<f32>,
    dimensions: usize,
    id: String,
}

/// What vectors come from: only those of one model can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Name and content hash of a model in the program, name and length of one that is asked over the network.
    pub id: String,
    /// How many numbers a vector has.
    pub dimensions: usize,
}

impl Model {
    /// A provider's model, of whose vectors the first `dimensions` numbers are asked for.
    pub fn remote(name: &str, dimensions: usize) -> Model {
        Model { id: format!("{name}/{dimensions}"), dimensions }
    }
}

/// `vector` at unit length; `None` where it has no direction.
pub fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if !length.is_finite() || length < 1e-6 {
        return None;
    }
    vector.iter_mut().for_each(|value| *value /= length);
    Some(vector)
}

impl Embedder {
    /// The model in the binary, loaded once; nearly all of the time goes into its vocabulary.
    pub fn shipped() -> Result<&'static Embedder, EmbedError> {
        static SHIPPED: OnceLock<Result<Embedder, String>> = OnceLock::new();
        let shipped = SHIPPED.get_or_init(|| Embedder::load(TENSORS, TOKENIZER));
        shipped.as_ref().map_err(|reason| EmbedError(reason.clone()))
    }

    fn load(tensors: &'static [u8], tokenizer: &[u8]) -> Result<Embedder, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let file = safetensors::SafeTensors::deserialize(tensors).map_err(|error| text(&error))?;
        let rows = file.tensor("embeddings").map_err(|error| text(&error))?;
        let weights = file.tensor("weights").map_err(|error| text(&error))?;
        let (&[count, dimensions], safetensors::Dtype::I8) = (rows.shape(), rows.dtype()) else {
            return Err("`embeddings` must be an int8 matrix".to_owned());
        };
        if weights.dtype() != safetensors::Dtype::F32 || weights.shape() != [count] {
            return Err("`weights` must be one f32 a row".to_owned());
        }
        let weights =
            weights.data().chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let mut hasher = blake3::Hasher::new();
        hasher.update(tensors).update(tokenizer);
        Ok(Embedder {
            pieces: Pieces::load(tokenizer)?,
            rows: rows.data(),
            weights: weights.collect(),
            dimensions,
            id: format!("static-en-zh-256/{}", &hasher.finalize().to_hex()[..16]),
        })
    }

    /// Name and content hash of the model; vectors of another model are refused.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its vectors can be compared with.
    pub fn model(&self) -> Model {
        Model { id: self.id.clone(), dimensions: self.dimensions }
    }

    /// The unit vector of `text`; `None` when nothing in it is known to the model.
    pub fn embed(&self, text: &str) -> Option<Vec<f32>> {
        let mut sum = vec![0f32; self.dimensions];
        for token in self.pieces.ids(text) {
            let token = token as usize;
            let (Some(&weight), Some(row)) =
                (self.weights.get(token), self.rows.get(token * self.dimensions..(token + 1) * self.dimensions))
            else {
                continue;
            };
            for (sum, &value) in sum.iter_mut().zip(row) {
                *sum += weight * f32::from(value as i8);
            }
        }
        unit(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let embed = |text| Embedder::shipped().unwrap().embed(text).unwrap();
        embed(a).iter().zip(embed(b)).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn what_means_the_same_is_near_in_both_languages() {
        assert!(
            cosine("heart attack treatment", "therapy of myocardial infarction")
                > cosine("heart attack treatment", "interest rates of banks") + 0.1
        );
        assert!(cosine("北京的天气", "weather in Beijing") > cosine("北京的天气", "a recipe for pancakes") + 0.1);
        assert_eq!(Embedder::shipped().unwrap().embed("🙂 …"), None);
    }
}
