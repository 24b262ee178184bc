-- A run whose subject was erased: what is said of it afterwards is not kept either.
ALTER TABLE run ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;

CREATE INDEX run_forgotten ON run (tenant_id, id) WHERE forgotten = 1;
CREATE INDEX run_forgotten_session ON run (tenant_id, session) WHERE forgotten = 1;
