-- Ids are UUIDv7 (16 bytes), times are microseconds since the Unix epoch, JSON is text. The statements are the part
-- of SQL that SQLite and PostgreSQL share.

CREATE TABLE tenant (
    id BLOB PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- API keys. A revoked key stays as a row, so that its name and history do.
CREATE TABLE principal (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    cred_hash BLOB NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    rpm BIGINT NOT NULL,
    routes TEXT NOT NULL,
    models TEXT NOT NULL,
    asserts TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);

-- Everything with a name and versions.
CREATE TABLE artifact (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL CHECK (kind IN ('prompt')),
    alias TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (tenant_id, kind, alias)
);

-- Insert-only.
CREATE TABLE artifact_version (
    id BLOB PRIMARY KEY,
    artifact_id BLOB NOT NULL REFERENCES artifact (id),
    number BIGINT NOT NULL,
    content_hash BLOB NOT NULL,
    body TEXT NOT NULL,
    vars TEXT NOT NULL,
    note TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (artifact_id, number)
);

-- Insert-only: the newest revision is in force, and inserting the next one is the compare-and-set.
CREATE TABLE deployment (
    artifact_id BLOB NOT NULL REFERENCES artifact (id),
    environment TEXT NOT NULL,
    revision BIGINT NOT NULL,
    version_id BLOB NOT NULL REFERENCES artifact_version (id),
    actor TEXT NOT NULL,
    note TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (artifact_id, environment, revision)
);

CREATE TABLE document (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    external_id TEXT NOT NULL,
    title TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (tenant_id, collection, external_id)
);

-- A chunk of a document with its vector. A text that a collection holds already is not stored twice.
CREATE TABLE snippet (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    document_id BLOB NOT NULL REFERENCES document (id),
    ordinal BIGINT NOT NULL,
    heading TEXT NOT NULL,
    text TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    embed_model TEXT NOT NULL,
    embedding BLOB,
    UNIQUE (tenant_id, collection, content_hash)
);

CREATE INDEX snippet_document ON snippet (document_id);

-- What changed, in order; its highest number tells a publisher that there is something to publish.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    at BIGINT NOT NULL
);

CREATE TABLE snapshot (
    epoch BIGINT PRIMARY KEY,
    upto_seq BIGINT NOT NULL,
    at BIGINT NOT NULL
);
