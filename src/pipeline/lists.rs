//! The lists of documents that are ranked as one request.

use super::error_of_request;
use crate::rerank::{RerankError, RerankRequest};

/// Lists of documents that are admitted, tokenized and run together.
pub(super) enum Lists {
    /// The lists of several requests.
    Requests(Vec<RerankRequest>),
    /// The list of one request, in several orders. Each order holds the index of every document
    /// once; the first is the request's own.
    Orders(Box<RerankRequest>, Vec<Vec<usize>>),
}

impl Lists {
    /// The request of each list.
    pub fn iter(&self) -> impl Iterator<Item = &RerankRequest> {
        let (requests, repeats) = match self {
            Self::Requests(requests) => (requests.as_slice(), 1),
            Self::Orders(request, orders) => (std::slice::from_ref(&**request), orders.len()),
        };
        requests.iter().flat_map(move |request| std::iter::repeat_n(request, repeats))
    }

    /// Documents in all requests.
    pub fn documents(&self) -> usize {
        match self {
            Self::Requests(requests) => requests.iter().map(|request| request.documents.len()).sum(),
            Self::Orders(request, _) => request.documents.len(),
        }
    }

    /// Bytes of all texts that are tokenized; a list counts once for each of its orders.
    pub fn text_bytes(&self) -> usize {
        self.iter().map(text_bytes).sum()
    }

    /// Calls `prepare` with each list, and frees its texts, which the orders of a list share.
    ///
    /// # Errors
    /// The first error of `prepare`; one of several requests with its index in the field that it
    /// names.
    pub fn map<T>(
        self,
        mut prepare: impl FnMut(&RerankRequest) -> Result<T, RerankError>,
    ) -> Result<Vec<T>, RerankError> {
        match self {
            Self::Requests(requests) => {
                let count = requests.len();
                let requests = requests.into_iter().enumerate();
                let prepare =
                    |(index, request)| prepare(&request).map_err(|error| error_of_request(index, count, error));
                requests.map(prepare).collect()
            }
            Self::Orders(mut request, orders) => {
                let mut documents = std::mem::take(&mut request.documents);
                let in_order = |places: Vec<usize>| {
                    request.documents = places.iter().map(|place| std::mem::take(&mut documents[*place])).collect();
                    let prepared = prepare(&request);
                    for (place, document) in places.into_iter().zip(request.documents.drain(..)) {
                        documents[place] = document;
                    }
                    prepared
                };
                orders.into_iter().map(in_order).collect()
            }
        }
    }
}

/// Bytes of all texts of a request.
fn text_bytes(request: &RerankRequest) -> usize {
    let short = request.query.len() + request.instruction.as_deref().map_or(0, str::len);
    request.documents.iter().map(String::len).sum::<usize>() + short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(documents: &[&str]) -> RerankRequest {
        RerankRequest::new("query", documents.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn the_orders_of_a_list_share_its_texts() {
        let request = request(&["a", "b", "c"]);
        let addresses =
            |request: &RerankRequest| request.documents.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let texts = addresses(&request);
        let orders = vec![vec![0, 1, 2], vec![2, 0, 1], vec![1, 2, 0]];
        let lists = Lists::Orders(Box::new(request), orders.clone());
        assert_eq!((lists.iter().count(), lists.documents(), lists.text_bytes()), (3, 3, 3 * 8));
        let found = lists.map(|request| Ok(addresses(request))).unwrap();
        let expected = orders.iter().map(|places| places.iter().map(|place| texts[*place]).collect());
        assert_eq!(found, expected.collect::<Vec<Vec<_>>>());
    }

    #[test]
    fn an_error_of_one_of_several_requests_has_its_index() {
        let lists = Lists::Requests(vec![request(&["a"]), request(&["b"])]);
        assert_eq!((lists.iter().count(), lists.documents()), (2, 2));
        let fails = |request: &RerankRequest| match request.documents[0].as_str() {
            "a" => Ok(()),
            _ => Err(RerankError::invalid("query", "is empty")),
        };
        let error = lists.map(fails).unwrap_err();
        assert!(matches!(&error, RerankError::InvalidField { field, .. } if field == "query[1]"), "{error:?}");
    }
}
