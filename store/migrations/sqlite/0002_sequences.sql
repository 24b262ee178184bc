-- Collections have rows; a snippet has a sequence number of its collection that is never given twice, so that a segment
-- is a range of numbers and a deletion is one number. Documents have payloads.

CREATE TABLE collection (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    name TEXT NOT NULL,
    next_sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

INSERT INTO collection (tenant_id, name, next_sequence)
SELECT tenant_id, collection, COUNT(*) + 1 FROM snippet GROUP BY tenant_id, collection;

ALTER TABLE snippet ADD COLUMN sequence BIGINT NOT NULL DEFAULT 0;

UPDATE snippet SET sequence = numbered.number
FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY tenant_id, collection ORDER BY id) AS number FROM snippet) AS numbered
WHERE snippet.id = numbered.id;

CREATE UNIQUE INDEX snippet_sequence ON snippet (tenant_id, collection, sequence);

ALTER TABLE document ADD COLUMN payload TEXT NOT NULL DEFAULT '';

-- A chunk that another document of the collection holds already; it takes its place when that document goes.
CREATE TABLE repetition (
    document_id BLOB NOT NULL REFERENCES document (id),
    ordinal BIGINT NOT NULL,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    PRIMARY KEY (document_id, ordinal)
);

CREATE INDEX repetition_content ON repetition (tenant_id, collection, content_hash);

-- Snippets that are gone but may stand in a published segment. A number leaves when no segment holds it.
CREATE TABLE forgotten (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    collection TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, collection, sequence)
);
