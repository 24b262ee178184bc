-- What was said in runs, of tenants that want it: sealed by edges to a key that the tenant's sealed secrets hold.
CREATE TABLE run_content (
    run_id BLOB NOT NULL PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    at BIGINT NOT NULL,
    subject BLOB,
    sealed BLOB NOT NULL
);
CREATE INDEX run_content_at ON run_content (tenant_id, at);
CREATE INDEX run_content_subject ON run_content (tenant_id, subject) WHERE subject IS NOT NULL;
