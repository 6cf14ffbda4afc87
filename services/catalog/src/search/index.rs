//! The index itself: an inverted index in memory, by tantivy.

use lonja_proto::SessionId;
use tantivy::{
    Index, IndexReader, IndexWriter, Order, ReloadPolicy, TantivyDocument, TantivyError, Term,
    collector::{Count, TopDocs},
    indexer::IndexWriterOptions,
    query::{AllQuery, BooleanQuery, Query, TermQuery},
    schema::{
        FAST, Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value as _,
    },
};

use super::{Found, Page, SearchQuery, words};
use crate::store::{Change, File, Listed};

/// Bytes that a commit's changes may take before they are written to the index.
const BUFFER: usize = 32 << 20;

/// The name of what gives the beginnings of words.
const BEGINNINGS: &str = "beginnings";

/// What is kept of each file.
#[derive(Debug, Clone, Copy)]
struct Fields {
    /// Session and filename, to delete a file by.
    key: Field,
    session: Field,
    username: Field,
    filename: Field,
    description: Field,
    /// Each beginning of each word of the three names.
    words: Field,
    order: Field,
}

impl Fields {
    fn new() -> (Self, Schema) {
        let mut schema = Schema::builder();
        let beginnings = TextFieldIndexing::default()
            .set_tokenizer(BEGINNINGS)
            .set_index_option(IndexRecordOption::Basic)
            .set_fieldnorms(false);
        let fields = Self {
            key: schema.add_text_field("key", STRING),
            session: schema.add_text_field("session", STRING | STORED),
            username: schema.add_text_field("username", STORED),
            filename: schema.add_text_field("filename", STORED),
            description: schema.add_text_field("description", STORED),
            words: schema.add_text_field("words", TextOptions::default().set_indexing_options(beginnings)),
            order: schema.add_u64_field("order", FAST),
        };
        (fields, schema.build())
    }

    fn key(&self, session: SessionId, filename: &str) -> Term {
        Term::from_field_text(self.key, &format!("{session}/{filename}"))
    }

    fn session(&self, session: SessionId) -> Term {
        Term::from_field_text(self.session, &session.to_string())
    }
}

/// An empty index, for one who writes and any number who read.
pub(super) fn create() -> Result<(Writer, Reader), TantivyError> {
    let (fields, schema) = Fields::new();
    let index = Index::create_in_ram(schema);
    index.tokenizers().register(BEGINNINGS, words::beginnings());
    let options = IndexWriterOptions::builder()
        .memory_budget_per_thread(BUFFER)
        .num_worker_threads(1)
        .num_merge_threads(1)
        .build();
    let writer = index.writer_with_options(options)?;
    let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
    let writer = Writer { fields, writer, reader: reader.clone() };
    Ok((writer, Reader { fields, reader }))
}

/// Changes the index. Nothing of it is seen before [`Writer::commit`].
pub(super) struct Writer {
    fields: Fields,
    writer: IndexWriter,
    reader: IndexReader,
}

impl Writer {
    /// Adds a file that is not in the index.
    pub(super) fn add(
        &self,
        session: SessionId,
        username: &str,
        listed: &Listed,
    ) -> Result<(), TantivyError> {
        let Listed { order, file: File { filename, description } } = listed;
        let Fields { key, session: of, username: user, filename: name, .. } = self.fields;
        let mut document = TantivyDocument::new();
        document.add_text(key, format!("{session}/{filename}"));
        document.add_text(of, session.to_string());
        document.add_text(user, username);
        document.add_text(name, filename);
        document.add_text(self.fields.description, description);
        document.add_u64(self.fields.order, *order);
        for text in [filename, description, username] {
            document.add_text(self.fields.words, words::composed(text));
        }
        self.writer.add_document(document).map(|_| ())
    }

    /// Applies a change. One that may have been applied before is `repeated`.
    pub(super) fn apply(&self, change: &Change, repeated: bool) -> Result<(), TantivyError> {
        match change {
            Change::Published(session, username, listed) => {
                if repeated {
                    self.writer.delete_term(self.fields.key(*session, &listed.file.filename));
                }
                self.add(*session, username, listed)?;
            }
            Change::Deleted(session, filename) => {
                self.writer.delete_term(self.fields.key(*session, filename));
            }
            Change::Ended(session) => {
                self.writer.delete_term(self.fields.session(*session));
            }
        }
        Ok(())
    }

    /// Shows readers what has changed.
    pub(super) fn commit(&mut self) -> Result<(), TantivyError> {
        self.writer.commit()?;
        self.reader.reload()
    }
}

/// Searches the index.
#[derive(Clone)]
pub(super) struct Reader {
    fields: Fields,
    reader: IndexReader,
}

impl Reader {
    /// Names the state of the index within this process; any change makes another.
    pub(super) fn generation(&self) -> u64 {
        self.reader.searcher().generation().generation_id()
    }

    /// What matches, newest first.
    pub(super) fn search(&self, query: &SearchQuery) -> Result<Page, TantivyError> {
        let searcher = self.reader.searcher();
        let newest = TopDocs::with_limit(query.limit).and_offset(query.offset);
        let newest = newest.order_by_fast_field::<u64>("order", Order::Desc);
        let (found, total) = searcher.search(&*self.query(query), &(newest, Count))?;
        let read = |(_, address)| Ok(self.found(&searcher.doc(address)?));
        let found = found.into_iter().map(read).collect::<Result<_, TantivyError>>()?;
        let generation = searcher.generation().generation_id();
        Ok(Page { generation, total: total as u64, found })
    }

    fn query(&self, query: &SearchQuery) -> Box<dyn Query> {
        let words = words::of_query(&query.text).into_iter();
        let words = words.map(|word| Term::from_field_text(self.fields.words, &word));
        let terms = words.chain(query.session.map(|session| self.fields.session(session)));
        let mut terms: Vec<Box<dyn Query>> =
            terms.map(|term| Box::new(TermQuery::new(term, IndexRecordOption::Basic)) as _).collect();
        match terms.len() {
            0 => Box::new(AllQuery),
            1 => terms.remove(0),
            _ => Box::new(BooleanQuery::intersection(terms)),
        }
    }

    fn found(&self, document: &TantivyDocument) -> Found {
        let text = |field| document.get_first(field).and_then(|value| value.as_str()).unwrap_or_default();
        Found {
            session: text(self.fields.session).to_owned(),
            username: text(self.fields.username).to_owned(),
            file: File {
                filename: text(self.fields.filename).to_owned(),
                description: text(self.fields.description).to_owned(),
            },
        }
    }
}
