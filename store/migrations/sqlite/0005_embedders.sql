-- The model that a collection's vectors come from, and how many numbers they have; empty for the model in the program.
ALTER TABLE collection ADD COLUMN embed_model TEXT NOT NULL DEFAULT '';
ALTER TABLE collection ADD COLUMN embed_dimensions BIGINT NOT NULL DEFAULT 0;
CREATE INDEX snippet_model ON snippet (tenant_id, collection, embed_model);
