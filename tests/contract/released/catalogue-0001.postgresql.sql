CREATE SCHEMA catalogue;
CREATE TABLE catalogue.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE catalogue.claims (
    claim_id bigint NOT NULL,
    training_image_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    share_ppm integer NOT NULL,
    valid_from character varying(27) NOT NULL,
    valid_to character varying(27) NOT NULL,
    origin character varying(200) NOT NULL,
    recorded_at character varying(27) NOT NULL,
    CONSTRAINT claims_interval CHECK (((valid_from)::text < (valid_to)::text)),
    CONSTRAINT claims_share CHECK (((share_ppm >= 1) AND (share_ppm <= 1000000)))
);
CREATE SEQUENCE catalogue.claims_claim_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE catalogue.claims_claim_id_seq OWNED BY catalogue.claims.claim_id;
CREATE TABLE catalogue.data_sets (
    name character varying(64) NOT NULL,
    added_at character varying(27) NOT NULL
);
CREATE TABLE catalogue.generators (
    model_version character varying(200) NOT NULL,
    collection character varying(200) NOT NULL,
    data_sets json NOT NULL,
    policy character varying(60) NOT NULL,
    added_at character varying(27) NOT NULL
);
CREATE TABLE catalogue.index_runs (
    run_id bigint NOT NULL,
    data_set character varying(64) NOT NULL,
    source text NOT NULL,
    "position" bigint NOT NULL,
    counts json NOT NULL,
    started_at character varying(27) NOT NULL,
    updated_at character varying(27) NOT NULL,
    finished_at character varying(27)
);
CREATE SEQUENCE catalogue.index_runs_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE catalogue.index_runs_run_id_seq OWNED BY catalogue.index_runs.run_id;
CREATE TABLE catalogue.owner_references (
    owner_id uuid NOT NULL,
    kind character varying(20) NOT NULL,
    ciphertext bytea NOT NULL,
    lookup character varying(64),
    recorded_at character varying(27) NOT NULL
);
CREATE TABLE catalogue.owners (
    owner_id uuid NOT NULL,
    recorded_at character varying(27) NOT NULL,
    forgotten_at character varying(27)
);
CREATE TABLE catalogue.sources (
    source_id bigint NOT NULL,
    training_image_id uuid NOT NULL,
    data_set character varying(64) NOT NULL,
    key text NOT NULL,
    uri text NOT NULL,
    title text NOT NULL,
    license text NOT NULL,
    labels json NOT NULL,
    added_at character varying(27) NOT NULL
);
CREATE SEQUENCE catalogue.sources_source_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE catalogue.sources_source_id_seq OWNED BY catalogue.sources.source_id;
CREATE TABLE catalogue.tombstones (
    sha256 character varying(64) NOT NULL,
    reason text NOT NULL,
    recorded_at character varying(27) NOT NULL
);
CREATE TABLE catalogue.works (
    training_image_id uuid NOT NULL,
    sha256 character varying(64) NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    added_at character varying(27) NOT NULL
);
ALTER TABLE ONLY catalogue.claims ALTER COLUMN claim_id SET DEFAULT nextval('catalogue.claims_claim_id_seq'::regclass);
ALTER TABLE ONLY catalogue.index_runs ALTER COLUMN run_id SET DEFAULT nextval('catalogue.index_runs_run_id_seq'::regclass);
ALTER TABLE ONLY catalogue.sources ALTER COLUMN source_id SET DEFAULT nextval('catalogue.sources_source_id_seq'::regclass);
INSERT INTO catalogue.alembic_version VALUES ('0001');
INSERT INTO catalogue.claims VALUES (1, '7a8ba030-d6a1-5273-8b41-c5878453fa75', '9138d3e6-bf6d-42c0-affd-c95eea22ad56', 1000000, '0001-01-01T00:00:00.000000Z', '9999-12-31T23:59:59.999999Z', 'data_set:paintings', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.claims VALUES (2, '4a838a4a-0c2a-593e-80a5-1acd6c22c5c3', 'd245ff06-0152-498b-aedf-7223bfe1bf42', 1000000, '0001-01-01T00:00:00.000000Z', '9999-12-31T23:59:59.999999Z', 'data_set:paintings', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.data_sets VALUES ('paintings', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.generators VALUES ('demo-1', 'works', '["paintings"]', 'paper@1', '2026-11-22T09:59:32.984535Z');
INSERT INTO catalogue.owner_references VALUES ('d245ff06-0152-498b-aedf-7223bfe1bf42', 'manifest_id', '\xf456c4872d30c887b04b79bc79996fae90a69e5106bbfc57876cf78936', 'c53743e733149e34ebebfedde95856d71b5b3a5ffec04f5d260131a70884d0d0', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.owner_references VALUES ('d245ff06-0152-498b-aedf-7223bfe1bf42', 'name', '\xd837aa94b8eed645690fe6502acce7e0e1d6781fea5f4b9502c535ee51cdb40f58c87e', NULL, '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.owner_references VALUES ('9138d3e6-bf6d-42c0-affd-c95eea22ad56', 'manifest_id', '\xbd4450357bf746a1e42f6a1c90e1d606b45a1b573bbd841a7328bf207a', '0277de3050b0ec1b48b829b3e7460f6f5f15cf66a209d85b7c58ec4808db219e', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.owner_references VALUES ('9138d3e6-bf6d-42c0-affd-c95eea22ad56', 'name', '\x0d13748f5c4ad98e5974bc4516dac15025c574a130d0ea2b27e7fb73a5e23e9f51ae6f', NULL, '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.owners VALUES ('d245ff06-0152-498b-aedf-7223bfe1bf42', '2026-11-22T09:59:32.958511Z', NULL);
INSERT INTO catalogue.owners VALUES ('9138d3e6-bf6d-42c0-affd-c95eea22ad56', '2026-11-22T09:59:32.958511Z', NULL);
INSERT INTO catalogue.sources VALUES (1, '599d0ff5-bae1-5deb-8bfd-228b0bc2bfa2', 'paintings', 'work-0', '', '', '', '[]', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.sources VALUES (2, '7a8ba030-d6a1-5273-8b41-c5878453fa75', 'paintings', 'work-1', '', '', '', '[]', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.sources VALUES (3, '4a838a4a-0c2a-593e-80a5-1acd6c22c5c3', 'paintings', 'work-2', '', '', '', '[]', '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.works VALUES ('599d0ff5-bae1-5deb-8bfd-228b0bc2bfa2', '5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9', 8, 8, '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.works VALUES ('7a8ba030-d6a1-5273-8b41-c5878453fa75', '6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b', 8, 8, '2026-11-22T09:59:32.958511Z');
INSERT INTO catalogue.works VALUES ('4a838a4a-0c2a-593e-80a5-1acd6c22c5c3', 'd4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35', 8, 8, '2026-11-22T09:59:32.958511Z');
SELECT pg_catalog.setval('catalogue.claims_claim_id_seq', 2, true);
SELECT pg_catalog.setval('catalogue.index_runs_run_id_seq', 1, false);
SELECT pg_catalog.setval('catalogue.sources_source_id_seq', 3, true);
ALTER TABLE ONLY catalogue.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY catalogue.claims
    ADD CONSTRAINT claims_key UNIQUE (training_image_id, owner_id, origin, valid_from);
ALTER TABLE ONLY catalogue.claims
    ADD CONSTRAINT claims_pkey PRIMARY KEY (claim_id);
ALTER TABLE ONLY catalogue.data_sets
    ADD CONSTRAINT data_sets_pkey PRIMARY KEY (name);
ALTER TABLE ONLY catalogue.generators
    ADD CONSTRAINT generators_pkey PRIMARY KEY (model_version);
ALTER TABLE ONLY catalogue.index_runs
    ADD CONSTRAINT index_runs_pkey PRIMARY KEY (run_id);
ALTER TABLE ONLY catalogue.owner_references
    ADD CONSTRAINT owner_references_pkey PRIMARY KEY (owner_id, kind);
ALTER TABLE ONLY catalogue.owners
    ADD CONSTRAINT owners_pkey PRIMARY KEY (owner_id);
ALTER TABLE ONLY catalogue.owner_references
    ADD CONSTRAINT references_lookup UNIQUE (lookup);
ALTER TABLE ONLY catalogue.sources
    ADD CONSTRAINT sources_key UNIQUE (training_image_id, data_set, key);
ALTER TABLE ONLY catalogue.sources
    ADD CONSTRAINT sources_pkey PRIMARY KEY (source_id);
ALTER TABLE ONLY catalogue.tombstones
    ADD CONSTRAINT tombstones_pkey PRIMARY KEY (sha256);
ALTER TABLE ONLY catalogue.works
    ADD CONSTRAINT works_pkey PRIMARY KEY (training_image_id);
ALTER TABLE ONLY catalogue.works
    ADD CONSTRAINT works_sha256 UNIQUE (sha256);
CREATE INDEX index_runs_source ON catalogue.index_runs USING btree (data_set, source);
ALTER TABLE ONLY catalogue.claims
    ADD CONSTRAINT claims_of_owner FOREIGN KEY (owner_id) REFERENCES catalogue.owners(owner_id);
ALTER TABLE ONLY catalogue.claims
    ADD CONSTRAINT claims_on_work FOREIGN KEY (training_image_id) REFERENCES catalogue.works(training_image_id);
ALTER TABLE ONLY catalogue.owner_references
    ADD CONSTRAINT references_of_owner FOREIGN KEY (owner_id) REFERENCES catalogue.owners(owner_id);
ALTER TABLE ONLY catalogue.sources
    ADD CONSTRAINT sources_of_data_set FOREIGN KEY (data_set) REFERENCES catalogue.data_sets(name);
ALTER TABLE ONLY catalogue.sources
    ADD CONSTRAINT sources_of_work FOREIGN KEY (training_image_id) REFERENCES catalogue.works(training_image_id);
