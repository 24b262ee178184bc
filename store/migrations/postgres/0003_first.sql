-- The tables as SQLite has them after its third migration, with row-level security: a transaction sees the rows of the
-- tenant that `sluice.tenant` names (its id in hexadecimal), or everybody's where that is `*`.

CREATE TABLE tenant (
    id BYTEA PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    default_artifact_id BYTEA,
    version_limit BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE principal (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    cred_hash BYTEA NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    rpm BIGINT NOT NULL,
    routes TEXT NOT NULL,
    models TEXT NOT NULL,
    asserts TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE artifact (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL CHECK (kind IN ('prompt', 'partial', 'persona', 'agent', 'policy', 'tool', 'flow')),
    alias TEXT NOT NULL,
    title TEXT NOT NULL,
    tags TEXT NOT NULL,
    visibility TEXT NOT NULL CHECK (visibility IN ('private', 'public')),
    enabled BIGINT NOT NULL,
    context BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    UNIQUE (tenant_id, kind, alias)
);

CREATE TABLE artifact_version (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    artifact_id BYTEA NOT NULL REFERENCES artifact (id),
    number BIGINT NOT NULL,
    content_hash BYTEA NOT NULL,
    body TEXT NOT NULL,
    note TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    deprecated_at BIGINT,
    UNIQUE (artifact_id, number)
);

CREATE TABLE deployment (
    artifact_id BYTEA NOT NULL REFERENCES artifact (id),
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    environment TEXT NOT NULL,
    revision BIGINT NOT NULL,
    version_id BYTEA REFERENCES artifact_version (id),
    actor TEXT NOT NULL,
    note TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (artifact_id, environment, revision)
);

CREATE INDEX deployment_version ON deployment (version_id);

ALTER TABLE tenant ADD FOREIGN KEY (default_artifact_id) REFERENCES artifact (id);

CREATE TABLE collection (
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    next_sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

CREATE TABLE document (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    external_id TEXT NOT NULL,
    title TEXT NOT NULL,
    content_hash BYTEA NOT NULL,
    updated_at BIGINT NOT NULL,
    payload TEXT NOT NULL DEFAULT '',
    UNIQUE (tenant_id, collection, external_id)
);

CREATE TABLE snippet (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    document_id BYTEA NOT NULL REFERENCES document (id),
    ordinal BIGINT NOT NULL,
    heading TEXT NOT NULL,
    text TEXT NOT NULL,
    content_hash BYTEA NOT NULL,
    embed_model TEXT NOT NULL,
    embedding BYTEA,
    sequence BIGINT NOT NULL,
    UNIQUE (tenant_id, collection, content_hash)
);

CREATE INDEX snippet_document ON snippet (document_id);
CREATE UNIQUE INDEX snippet_sequence ON snippet (tenant_id, collection, sequence);

CREATE TABLE repetition (
    document_id BYTEA NOT NULL REFERENCES document (id),
    ordinal BIGINT NOT NULL,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    content_hash BYTEA NOT NULL,
    PRIMARY KEY (document_id, ordinal)
);

CREATE INDEX repetition_content ON repetition (tenant_id, collection, content_hash);

CREATE TABLE forgotten (
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, collection, sequence)
);

CREATE TABLE event (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    publishes BIGINT NOT NULL DEFAULT 1
);

CREATE TABLE snapshot (
    epoch BIGINT PRIMARY KEY,
    upto_seq BIGINT NOT NULL,
    at BIGINT NOT NULL
);

-- What a draft is before it is a version; writing the next revision is the compare-and-set.
CREATE TABLE draft (
    artifact_id BYTEA PRIMARY KEY REFERENCES artifact (id),
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    body TEXT NOT NULL,
    author TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Which artifacts a version names, with the rule that chooses their versions.
CREATE TABLE artifact_link (
    version_id BYTEA NOT NULL REFERENCES artifact_version (id),
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL,
    alias TEXT NOT NULL,
    selector TEXT NOT NULL,
    PRIMARY KEY (version_id, kind, alias, selector)
);

CREATE INDEX artifact_link_target ON artifact_link (tenant_id, kind, alias);

-- Environments in which only operators with the scope `protected` deploy.
CREATE TABLE protected_environment (
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- At most one that runs for a prompt and an environment. Arms are JSON: name, version, weight and the fixed beginning
-- of its range.
CREATE TABLE experiment (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    artifact_id BYTEA NOT NULL REFERENCES artifact (id),
    name TEXT NOT NULL,
    environment TEXT NOT NULL,
    seed TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('session', 'subject', 'key', 'request')),
    coverage BIGINT NOT NULL,
    arms TEXT NOT NULL,
    metric TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('draft', 'running', 'stopped')),
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);

CREATE UNIQUE INDEX experiment_running ON experiment (artifact_id, environment) WHERE state = 'running';

-- What edges report; the journal's number makes a record arrive once.
CREATE TABLE run (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    at BIGINT NOT NULL,
    edge TEXT NOT NULL,
    key_id BYTEA,
    route TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,
    version BIGINT NOT NULL,
    environment TEXT NOT NULL,
    experiment TEXT NOT NULL,
    arm TEXT NOT NULL,
    session BYTEA,
    subject BYTEA,
    status BIGINT NOT NULL,
    error TEXT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    own_microseconds BIGINT NOT NULL,
    total_microseconds BIGINT NOT NULL
);

CREATE INDEX run_time ON run (tenant_id, at);
CREATE INDEX run_arm ON run (tenant_id, experiment, arm);
CREATE INDEX run_session ON run (tenant_id, session);
CREATE INDEX run_subject ON run (tenant_id, subject);

-- One value for a unit, a metric and a source; the newest counts.
CREATE TABLE feedback (
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    unit_kind TEXT NOT NULL CHECK (unit_kind IN ('run', 'session', 'subject')),
    unit BYTEA NOT NULL,
    metric TEXT NOT NULL,
    source TEXT NOT NULL,
    value DOUBLE PRECISION,
    comment TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, unit_kind, unit, metric, source)
);

-- Batches of edges' journals that are stored already.
CREATE TABLE journal (
    edge TEXT NOT NULL,
    number BIGINT NOT NULL,
    records BIGINT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (edge, number)
);

-- System settings: JSON by key.
CREATE TABLE setting (
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    category TEXT NOT NULL,
    public BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- Sealed with AES-256-GCM; the id of the sealing key stands in its own column and not in what is authenticated, so
-- that keys can be changed.
CREATE TABLE secret (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    key_id TEXT NOT NULL,
    nonce BYTEA NOT NULL,
    ciphertext BYTEA NOT NULL,
    last_four TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);

-- Who may use the API; the token is kept as a hash.
CREATE TABLE operator (
    id BYTEA PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    token_hash BYTEA NOT NULL UNIQUE,
    tenant_id BYTEA REFERENCES tenant (id),
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);

-- Answers of calls that named an idempotency key.
CREATE TABLE idempotency (
    operator TEXT NOT NULL,
    name TEXT NOT NULL,
    request_hash BYTEA NOT NULL,
    status BIGINT NOT NULL,
    etag TEXT NOT NULL,
    body TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (operator, name)
);

-- What imports did.
CREATE TABLE migration_status (
    id BYTEA PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    migration_type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed')),
    started_at BIGINT NOT NULL,
    completed_at BIGINT,
    error_message TEXT NOT NULL,
    templates_migrated BIGINT NOT NULL,
    templates_failed BIGINT NOT NULL
);

-- Also for the tables' owner, which this program connects as; superusers are beyond it.
ALTER TABLE principal ENABLE ROW LEVEL SECURITY;
ALTER TABLE principal FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON principal USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE artifact ENABLE ROW LEVEL SECURITY;
ALTER TABLE artifact FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON artifact USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE artifact_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE artifact_version FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON artifact_version USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE deployment ENABLE ROW LEVEL SECURITY;
ALTER TABLE deployment FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON deployment USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE collection ENABLE ROW LEVEL SECURITY;
ALTER TABLE collection FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON collection USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE document ENABLE ROW LEVEL SECURITY;
ALTER TABLE document FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON document USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE snippet ENABLE ROW LEVEL SECURITY;
ALTER TABLE snippet FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON snippet USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE repetition ENABLE ROW LEVEL SECURITY;
ALTER TABLE repetition FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON repetition USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE forgotten ENABLE ROW LEVEL SECURITY;
ALTER TABLE forgotten FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON forgotten USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE event ENABLE ROW LEVEL SECURITY;
ALTER TABLE event FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON event USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE draft ENABLE ROW LEVEL SECURITY;
ALTER TABLE draft FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON draft USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE artifact_link ENABLE ROW LEVEL SECURITY;
ALTER TABLE artifact_link FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON artifact_link USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE protected_environment ENABLE ROW LEVEL SECURITY;
ALTER TABLE protected_environment FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON protected_environment USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE experiment ENABLE ROW LEVEL SECURITY;
ALTER TABLE experiment FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON experiment USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE run ENABLE ROW LEVEL SECURITY;
ALTER TABLE run FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON run USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE feedback ENABLE ROW LEVEL SECURITY;
ALTER TABLE feedback FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON feedback USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE setting ENABLE ROW LEVEL SECURITY;
ALTER TABLE setting FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON setting USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE secret FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON secret USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
ALTER TABLE migration_status ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration_status FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON migration_status USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
