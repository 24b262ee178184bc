-- Artifacts of several kinds with a life: drafts, versions, links, deployments, experiments. Run records and feedback,
-- settings, sealed secrets, operators. Every row of a tenant names the tenant.

CREATE TABLE artifact_new (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
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

CREATE TABLE artifact_version_new (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    artifact_id BLOB NOT NULL REFERENCES artifact_new (id),
    number BIGINT NOT NULL,
    content_hash BLOB NOT NULL,
    body TEXT NOT NULL,
    note TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    deprecated_at BIGINT,
    UNIQUE (artifact_id, number)
);

CREATE TABLE deployment_new (
    artifact_id BLOB NOT NULL REFERENCES artifact_new (id),
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    environment TEXT NOT NULL,
    revision BIGINT NOT NULL,
    version_id BLOB REFERENCES artifact_version_new (id),
    actor TEXT NOT NULL,
    note TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (artifact_id, environment, revision)
);

INSERT INTO artifact_new SELECT id, tenant_id, kind, alias, '', '', 'private', 1, 1, 1, '', created_at, created_at, NULL FROM artifact;
INSERT INTO artifact_version_new SELECT v.id, a.tenant_id, v.artifact_id, v.number, v.content_hash, json_array(json(v.body), json(v.vars)), v.note, v.author, v.created_at, NULL FROM artifact_version v JOIN artifact a ON a.id = v.artifact_id;
INSERT INTO deployment_new SELECT d.artifact_id, a.tenant_id, d.environment, d.revision, d.version_id, d.actor, d.note, d.at FROM deployment d JOIN artifact a ON a.id = d.artifact_id;

DROP TABLE deployment;
DROP TABLE artifact_version;
DROP TABLE artifact;

ALTER TABLE artifact_new RENAME TO artifact;
ALTER TABLE artifact_version_new RENAME TO artifact_version;
ALTER TABLE deployment_new RENAME TO deployment;

CREATE INDEX deployment_version ON deployment (version_id);

ALTER TABLE tenant ADD COLUMN default_artifact_id BLOB REFERENCES artifact (id);
ALTER TABLE tenant ADD COLUMN version_limit BIGINT NOT NULL DEFAULT 0;

-- Changes and who made them; what an operator's call changed beside what is published (`publishes` 0) is here too.
ALTER TABLE event ADD COLUMN actor TEXT NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN detail TEXT NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN publishes BIGINT NOT NULL DEFAULT 1;

-- What a draft is before it is a version; writing the next revision is the compare-and-set.
CREATE TABLE draft (
    artifact_id BLOB PRIMARY KEY REFERENCES artifact (id),
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    body TEXT NOT NULL,
    author TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Which artifacts a version names, with the rule that chooses their versions.
CREATE TABLE artifact_link (
    version_id BLOB NOT NULL REFERENCES artifact_version (id),
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL,
    alias TEXT NOT NULL,
    selector TEXT NOT NULL,
    PRIMARY KEY (version_id, kind, alias, selector)
);

CREATE INDEX artifact_link_target ON artifact_link (tenant_id, kind, alias);

-- Environments in which only operators with the scope `protected` deploy.
CREATE TABLE protected_environment (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- At most one that runs for a prompt and an environment. Arms are JSON: name, version, weight and the fixed beginning
-- of its range.
CREATE TABLE experiment (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    artifact_id BLOB NOT NULL REFERENCES artifact (id),
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
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    at BIGINT NOT NULL,
    edge TEXT NOT NULL,
    key_id BLOB,
    route TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,
    version BIGINT NOT NULL,
    environment TEXT NOT NULL,
    experiment TEXT NOT NULL,
    arm TEXT NOT NULL,
    session BLOB,
    subject BLOB,
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
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    unit_kind TEXT NOT NULL CHECK (unit_kind IN ('run', 'session', 'subject')),
    unit BLOB NOT NULL,
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
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
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
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    key_id TEXT NOT NULL,
    nonce BLOB NOT NULL,
    ciphertext BLOB NOT NULL,
    last_four TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);

-- Who may use the API; the token is kept as a hash.
CREATE TABLE operator (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    token_hash BLOB NOT NULL UNIQUE,
    tenant_id BLOB REFERENCES tenant (id),
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);

-- Answers of calls that named an idempotency key.
CREATE TABLE idempotency (
    operator TEXT NOT NULL,
    name TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    status BIGINT NOT NULL,
    etag TEXT NOT NULL,
    body TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (operator, name)
);

-- What imports did.
CREATE TABLE migration_status (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    migration_type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed')),
    started_at BIGINT NOT NULL,
    completed_at BIGINT,
    error_message TEXT NOT NULL,
    templates_migrated BIGINT NOT NULL,
    templates_failed BIGINT NOT NULL
);
