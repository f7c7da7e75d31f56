BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE claims (
	claim_id INTEGER NOT NULL, 
	training_image_id CHAR(32) NOT NULL, 
	owner_id CHAR(32) NOT NULL, 
	share_ppm INTEGER NOT NULL, 
	valid_from VARCHAR(27) NOT NULL, 
	valid_to VARCHAR(27) NOT NULL, 
	origin VARCHAR(200) NOT NULL, 
	recorded_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (claim_id), 
	CONSTRAINT claims_key UNIQUE (training_image_id, owner_id, origin, valid_from), 
	CONSTRAINT claims_share CHECK (share_ppm BETWEEN 1 AND 1000000), 
	CONSTRAINT claims_interval CHECK (valid_from < valid_to), 
	CONSTRAINT claims_on_work FOREIGN KEY(training_image_id) REFERENCES works (training_image_id), 
	CONSTRAINT claims_of_owner FOREIGN KEY(owner_id) REFERENCES owners (owner_id)
);
INSERT INTO "claims" VALUES(1,'7a8ba030d6a152738b41c5878453fa75','3d4a81c53c5d4d93a572a0fdfc818d3e',1000000,'0001-01-01T00:00:00.000000Z','9999-12-31T23:59:59.999999Z','data_set:paintings','2026-11-22T09:59:30.582704Z');
INSERT INTO "claims" VALUES(2,'4a838a4a0c2a593e80a51acd6c22c5c3','644f0162f6f049e88a8b6b8aef4df194',1000000,'0001-01-01T00:00:00.000000Z','9999-12-31T23:59:59.999999Z','data_set:paintings','2026-11-22T09:59:30.582704Z');
CREATE TABLE data_sets (
	name VARCHAR(64) NOT NULL, 
	added_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "data_sets" VALUES('paintings','2026-11-22T09:59:30.582704Z');
CREATE TABLE generators (
	model_version VARCHAR(200) NOT NULL, 
	collection VARCHAR(200) NOT NULL, 
	data_sets JSON NOT NULL, 
	policy VARCHAR(60) NOT NULL, 
	added_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (model_version)
);
INSERT INTO "generators" VALUES('demo-1','works','["paintings"]','paper@1','2026-11-22T09:59:30.631691Z');
CREATE TABLE index_runs (
	run_id INTEGER NOT NULL, 
	data_set VARCHAR(64) NOT NULL, 
	source TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	counts JSON NOT NULL, 
	started_at VARCHAR(27) NOT NULL, 
	updated_at VARCHAR(27) NOT NULL, 
	finished_at VARCHAR(27), 
	PRIMARY KEY (run_id)
);
CREATE TABLE owner_references (
	owner_id CHAR(32) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	ciphertext BLOB NOT NULL, 
	lookup VARCHAR(64), 
	recorded_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (owner_id, kind), 
	CONSTRAINT references_lookup UNIQUE (lookup), 
	CONSTRAINT references_of_owner FOREIGN KEY(owner_id) REFERENCES owners (owner_id)
);
INSERT INTO "owner_references" VALUES('644f0162f6f049e88a8b6b8aef4df194','manifest_id',X'A04DB36797A7A82EB8C4C3F2200A0AE7AFCB21E361CFBA09C5D10DF06D','5d6df7a69bed8e9d52b87df557d49be875ba4e06a4d7d2982eebe31ce740c533','2026-11-22T09:59:30.582704Z');
INSERT INTO "owner_references" VALUES('644f0162f6f049e88a8b6b8aef4df194','name',X'9841B7C6D2CC048F98B3A2F883F7BA4DE2680A0A406EFD979846F0192C99C5AFB755FF',NULL,'2026-11-22T09:59:30.582704Z');
INSERT INTO "owner_references" VALUES('3d4a81c53c5d4d93a572a0fdfc818d3e','manifest_id',X'6D2CF41CF4ACD0F11FC4E605B1D93A59260DEA3FCE70DFBE0D8C35741F','1f4276750b90e08e1fa73c480b8488ca05bca6f0cd95f30a1a635b70dca485cf','2026-11-22T09:59:30.582704Z');
INSERT INTO "owner_references" VALUES('3d4a81c53c5d4d93a572a0fdfc818d3e','name',X'DBE4D56AFB27BA32B76E130DDA2FFC6A5051C3B52214C2D38FEB6A1BD64F99997042BE',NULL,'2026-11-22T09:59:30.582704Z');
CREATE TABLE owners (
	owner_id CHAR(32) NOT NULL, 
	recorded_at VARCHAR(27) NOT NULL, 
	forgotten_at VARCHAR(27), 
	PRIMARY KEY (owner_id)
);
INSERT INTO "owners" VALUES('644f0162f6f049e88a8b6b8aef4df194','2026-11-22T09:59:30.582704Z',NULL);
INSERT INTO "owners" VALUES('3d4a81c53c5d4d93a572a0fdfc818d3e','2026-11-22T09:59:30.582704Z',NULL);
CREATE TABLE sources (
	source_id INTEGER NOT NULL, 
	training_image_id CHAR(32) NOT NULL, 
	data_set VARCHAR(64) NOT NULL, 
	"key" TEXT NOT NULL, 
	uri TEXT NOT NULL, 
	title TEXT NOT NULL, 
	license TEXT NOT NULL, 
	labels JSON NOT NULL, 
	added_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (source_id), 
	CONSTRAINT sources_key UNIQUE (training_image_id, data_set, "key"), 
	CONSTRAINT sources_of_work FOREIGN KEY(training_image_id) REFERENCES works (training_image_id), 
	CONSTRAINT sources_of_data_set FOREIGN KEY(data_set) REFERENCES data_sets (name)
);
INSERT INTO "sources" VALUES(1,'599d0ff5bae15deb8bfd228b0bc2bfa2','paintings','work-0','','','','[]','2026-11-22T09:59:30.582704Z');
INSERT INTO "sources" VALUES(2,'7a8ba030d6a152738b41c5878453fa75','paintings','work-1','','','','[]','2026-11-22T09:59:30.582704Z');
INSERT INTO "sources" VALUES(3,'4a838a4a0c2a593e80a51acd6c22c5c3','paintings','work-2','','','','[]','2026-11-22T09:59:30.582704Z');
CREATE TABLE tombstones (
	sha256 VARCHAR(64) NOT NULL, 
	reason TEXT NOT NULL, 
	recorded_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (sha256)
);
CREATE TABLE works (
	training_image_id CHAR(32) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	added_at VARCHAR(27) NOT NULL, 
	PRIMARY KEY (training_image_id), 
	CONSTRAINT works_sha256 UNIQUE (sha256)
);
INSERT INTO "works" VALUES('599d0ff5bae15deb8bfd228b0bc2bfa2','5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9',8,8,'2026-11-22T09:59:30.582704Z');
INSERT INTO "works" VALUES('7a8ba030d6a152738b41c5878453fa75','6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b',8,8,'2026-11-22T09:59:30.582704Z');
INSERT INTO "works" VALUES('4a838a4a0c2a593e80a51acd6c22c5c3','d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35',8,8,'2026-11-22T09:59:30.582704Z');
CREATE INDEX index_runs_source ON index_runs (data_set, source);
COMMIT;
