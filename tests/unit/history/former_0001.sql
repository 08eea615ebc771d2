BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE comparisons (
	id INTEGER NOT NULL, 
	run_id INTEGER NOT NULL, 
	endpoint TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	task TEXT NOT NULL, 
	metric TEXT NOT NULL, 
	unit TEXT NOT NULL, 
	baseline_sha256 VARCHAR(64), 
	n INTEGER NOT NULL, 
	n11 INTEGER, 
	n10 INTEGER, 
	n01 INTEGER, 
	n00 INTEGER, 
	baseline_value FLOAT, 
	candidate_value FLOAT, 
	difference FLOAT, 
	lower FLOAT, 
	upper FLOAT, 
	level FLOAT, 
	method TEXT, 
	invalid_share FLOAT, 
	log_probability_change FLOAT, 
	CONSTRAINT pk_comparisons PRIMARY KEY (id), 
	CONSTRAINT uq_comparisons_run_id_endpoint_scope UNIQUE (run_id, endpoint, scope), 
	CONSTRAINT fk_comparisons_run_id FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT fk_comparisons_baseline_sha256 FOREIGN KEY(baseline_sha256) REFERENCES identities (sha256)
);
CREATE TABLE identities (
	sha256 VARCHAR(64) NOT NULL, 
	adapter TEXT NOT NULL, 
	model TEXT NOT NULL, 
	recipe TEXT NOT NULL, 
	recipe_sha256 VARCHAR(64), 
	fidelity TEXT NOT NULL, 
	device TEXT NOT NULL, 
	document JSON NOT NULL, 
	CONSTRAINT pk_identities PRIMARY KEY (sha256)
);
CREATE TABLE runs (
	id INTEGER NOT NULL, 
	key_sha256 VARCHAR(64) NOT NULL, 
	identity_sha256 VARCHAR(64) NOT NULL, 
	suite TEXT NOT NULL, 
	site TEXT NOT NULL, 
	name TEXT NOT NULL, 
	night TEXT, 
	evalkit TEXT NOT NULL, 
	policy_sha256 VARCHAR(64), 
	records_sha256 JSON NOT NULL, 
	items INTEGER, 
	seconds FLOAT, 
	environment JSON NOT NULL, 
	at TEXT, 
	CONSTRAINT pk_runs PRIMARY KEY (id), 
	CONSTRAINT uq_runs_key_sha256 UNIQUE (key_sha256), 
	CONSTRAINT fk_runs_identity_sha256 FOREIGN KEY(identity_sha256) REFERENCES identities (sha256)
);
CREATE TABLE verdicts (
	id INTEGER NOT NULL, 
	run_id INTEGER NOT NULL, 
	policy TEXT NOT NULL, 
	policy_sha256 VARCHAR(64) NOT NULL, 
	outcome TEXT NOT NULL, 
	claim TEXT, 
	reasons JSON NOT NULL, 
	exploratory BOOLEAN NOT NULL, 
	certificate_sha256 VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_verdicts PRIMARY KEY (id), 
	CONSTRAINT uq_verdicts_run_id_policy_sha256 UNIQUE (run_id, policy_sha256), 
	CONSTRAINT fk_verdicts_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);
COMMIT;
