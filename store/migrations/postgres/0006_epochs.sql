-- Subjects that were erased, by the hash that records know them by: edges forget what they keep of them.
CREATE TABLE erasure (
    tenant_id BYTEA NOT NULL REFERENCES tenant (id),
    unit BYTEA NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, unit)
);

-- The epoch whose prompts are in force instead of those that are deployed, while there is a row.
CREATE TABLE rollback (
    epoch BIGINT NOT NULL,
    actor TEXT NOT NULL,
    at BIGINT NOT NULL
);

ALTER TABLE erasure ENABLE ROW LEVEL SECURITY;
ALTER TABLE erasure FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON erasure USING (current_setting('sluice.tenant', true) IN (encode(tenant_id, 'hex'), '*'));
