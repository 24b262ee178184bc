-- What was said in runs, of tenants that want it: sealed by edges to a key that the tenant's sealed secrets hold.
CREATE TABLE run_content (
    run_id BYTEA NOT NULL PRIMARY KEY,
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    at BIGINT NOT NULL,
    subject BYTEA,
    sealed BYTEA NOT NULL
);
CREATE INDEX run_content_at ON run_content (tenant_id, at);
CREATE INDEX run_content_subject ON run_content (tenant_id, subject) WHERE subject IS NOT NULL;

ALTER TABLE run_content ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_content FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON run_content USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
