-- Files that documents bring along, by their content: BLAKE3. `loose_since` is the highest number for one that was given
-- to a document; one that no document has is kept for a day after its arrival.
CREATE TABLE blob (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    hash BLOB NOT NULL,
    media_type TEXT NOT NULL,
    content BLOB NOT NULL,
    bytes BIGINT NOT NULL,
    loose_since BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, hash)
);
CREATE INDEX blob_loose ON blob (tenant_id, loose_since);

CREATE TABLE attachment (
    document_id BLOB NOT NULL REFERENCES document (id),
    ordinal BIGINT NOT NULL,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (document_id, ordinal)
);
CREATE INDEX attachment_blob ON attachment (tenant_id, hash);
