BEGIN TRANSACTION;
CREATE TABLE attempts (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	attempt_id TEXT NOT NULL, 
	sequence_id INTEGER NOT NULL, 
	start_time DOUBLE NOT NULL, 
	end_time DOUBLE, 
	status TEXT NOT NULL, 
	worker_id TEXT, 
	last_heartbeat_time DOUBLE, 
	metadata TEXT, 
	PRIMARY KEY (ordinal), 
	UNIQUE (rollout_id, attempt_id)
);
INSERT INTO "attempts" VALUES(1,'ro-c4d7c9d8ddc8','at-afe074f2',1,1.79526702911332821841e+09,1.79526702911588335043e+09,'succeeded','w',1.79526702911474967004e+09,NULL);
CREATE TABLE queue (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	PRIMARY KEY (ordinal), 
	UNIQUE (rollout_id)
);
INSERT INTO "queue" VALUES(1,'ro-d9a1f10813b1');
CREATE TABLE resources (
	ordinal INTEGER NOT NULL, 
	resources_id TEXT NOT NULL, 
	create_time DOUBLE NOT NULL, 
	update_time DOUBLE NOT NULL, 
	version INTEGER NOT NULL, 
	resources TEXT NOT NULL, 
	changed BIGINT NOT NULL, 
	PRIMARY KEY (ordinal), 
	UNIQUE (resources_id), 
	UNIQUE (changed)
);
INSERT INTO "resources" VALUES(1,'rs-8ef4002fd36b',1.79526702911003184321e+09,1.79526702911003184321e+09,1,'{"main_llm":{"resource_type":"llm","endpoint":"http://localhost:1/v1","model":"tiny","api_key":null,"sampling_parameters":{}}}',1);
CREATE TABLE rollouts (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	input TEXT NOT NULL, 
	start_time DOUBLE NOT NULL, 
	end_time DOUBLE, 
	mode TEXT, 
	resources_id TEXT, 
	status TEXT NOT NULL, 
	config TEXT NOT NULL, 
	metadata TEXT, 
	attempts INTEGER NOT NULL, 
	attempt_id TEXT, 
	last_sequence_id INTEGER NOT NULL, 
	PRIMARY KEY (ordinal), 
	UNIQUE (rollout_id)
);
INSERT INTO "rollouts" VALUES(1,'ro-c4d7c9d8ddc8','{"n":1}',1.79526702911332821841e+09,1.79526702911588335043e+09,NULL,'rs-8ef4002fd36b','succeeded','{}',NULL,1,'at-afe074f2',2);
INSERT INTO "rollouts" VALUES(2,'ro-d9a1f10813b1','"waiting"',1.79526702911629319195e+09,NULL,NULL,'rs-8ef4002fd36b','queuing','{}',NULL,0,NULL,0);
CREATE TABLE spans (
	ordinal INTEGER NOT NULL, 
	rollout_id TEXT NOT NULL, 
	attempt_id TEXT NOT NULL, 
	sequence_id INTEGER NOT NULL, 
	span_id TEXT NOT NULL, 
	trace_id TEXT NOT NULL, 
	parent_id TEXT, 
	name TEXT NOT NULL, 
	start_time DOUBLE, 
	end_time DOUBLE, 
	status TEXT NOT NULL, 
	attributes TEXT NOT NULL, 
	events TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	token_call BLOB, 
	PRIMARY KEY (ordinal), 
	UNIQUE (rollout_id, attempt_id, span_id)
);
INSERT INTO "spans" VALUES(1,'ro-c4d7c9d8ddc8','at-afe074f2',1,'e0cd02100cca55f0','4f71a71c387fb48f9b9101151f70422e',NULL,'call',1.79526702911403036118e+09,1.79526702911403036118e+09,'{"status_code":"OK","description":null}','{"x":1.5}','[]','{"service.name":"old"}',NULL);
INSERT INTO "spans" VALUES(2,'ro-c4d7c9d8ddc8','at-afe074f2',2,'403fee3bc4bead10','9b4b7f9291681e288dad9cde459a2e21',NULL,'nan',1795267029.1146,1795267029.1146,'{"status_code":"OK","description":null}','{"x":1.5}','[]',' {"odd": NaN}',NULL);
CREATE TABLE store_info (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "store_info" VALUES('schema_version','1');
CREATE TABLE workers (
	ordinal INTEGER NOT NULL, 
	worker_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	heartbeat_stats TEXT, 
	last_heartbeat_time DOUBLE, 
	last_dequeue_time DOUBLE, 
	last_busy_time DOUBLE, 
	last_idle_time DOUBLE, 
	current_rollout_id TEXT, 
	current_attempt_id TEXT, 
	PRIMARY KEY (ordinal), 
	UNIQUE (worker_id)
);
INSERT INTO "workers" VALUES(1,'w','idle',NULL,NULL,NULL,1.79526702911421704288e+09,1.79526702911588335043e+09,NULL,NULL);
CREATE INDEX active_attempts ON attempts (worker_id) WHERE status IN ('preparing', 'running');
CREATE INDEX rollouts_by_status ON rollouts (status);
COMMIT;
