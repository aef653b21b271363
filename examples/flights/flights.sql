-- The flights that left New York in 2013, as they happen. See README.md beside this file.

-- A record when a plane leaves. A record's event time is `ts`; those of one partition come in
-- order, so the minute by which the watermark stays behind is more than it needs.
CREATE SOURCE departures (
    ts        TIMESTAMP NOT NULL,
    carrier   VARCHAR   NOT NULL,
    flight    INT       NOT NULL,
    tailnum   VARCHAR   NOT NULL,
    origin    VARCHAR   NOT NULL,
    dest      VARCHAR   NOT NULL,
    distance  INT       NOT NULL,  -- miles
    delay     INT       NOT NULL,  -- minutes behind the schedule, negative when early
    WATERMARK FOR ts AS ts - INTERVAL '1' MINUTE
) WITH (topic = 'departures', format = 'json');

-- A record when a plane lands. The delay of a diverted flight is not known.
CREATE SOURCE arrivals (
    ts        TIMESTAMP NOT NULL,
    carrier   VARCHAR   NOT NULL,
    flight    INT       NOT NULL,
    tailnum   VARCHAR   NOT NULL,
    origin    VARCHAR   NOT NULL,
    dest      VARCHAR   NOT NULL,
    distance  INT       NOT NULL,
    delay     INT,
    WATERMARK FOR ts AS ts - INTERVAL '1' MINUTE
) WITH (topic = 'arrivals', format = 'json');

-- Loaded once. The path is one on the node's machine.
CREATE TABLE airlines (
    carrier  VARCHAR PRIMARY KEY,
    name     VARCHAR NOT NULL
) FROM 'examples/flights/airlines.csv';

-- How punctually each airline left in each hour. An hour shows what there is of it so far.
CREATE MATERIALIZED VIEW carrier_hours AS
SELECT
    d.carrier,
    a.name AS airline,
    d.window_start,
    d.window_end,
    count(*)     AS flights,
    avg(d.delay) AS mean_delay,
    max(d.delay) AS worst_delay
FROM TABLE(TUMBLE(TABLE departures, DESCRIPTOR(ts), INTERVAL '1' HOUR)) AS d
JOIN airlines AS a ON a.carrier = d.carrier
GROUP BY d.carrier, a.name, d.window_start, d.window_end;

-- How punctually planes arrive on each route.
CREATE MATERIALIZED VIEW routes AS
SELECT
    origin,
    dest,
    count(*)   AS flights,
    avg(delay) AS mean_delay
FROM arrivals
GROUP BY origin, dest;
