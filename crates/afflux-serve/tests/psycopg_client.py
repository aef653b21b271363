"""What psycopg 3 does, against a node with the view `carriers`. Called with the port."""

import datetime
import decimal
import sys

import psycopg

dsn = f"host=127.0.0.1 port={sys.argv[1]} user=somebody dbname=any"


def equal(actual, expected):
    assert actual == expected, f"{actual!r} is not {expected!r}"


with psycopg.connect(dsn) as db:  # not autocommit: BEGIN goes ahead of everything
    rows = db.execute("SELECT carrier, flights, delay FROM carriers ORDER BY carrier").fetchall()
    equal(rows, [("AA", 7, 1.5), ("UA", 3, None)])
    db.commit()

with psycopg.connect(dsn, autocommit=True) as db:
    for binary in (False, True):
        cursor = db.cursor(binary=binary)
        cursor.execute("SELECT flights FROM carriers WHERE carrier = %s", ["UA"])
        equal(cursor.fetchall(), [(3,)])
        cursor.execute("SELECT carrier FROM carriers WHERE flights >= %s ORDER BY 1", [3])
        equal(cursor.fetchall(), [("AA",), ("UA",)])
        cursor.execute("SELECT carrier FROM carriers WHERE flights > %b", [5])
        equal(cursor.fetchall(), [("AA",)])
        cursor.execute(
            "SELECT %s::bigint, %s::double precision, %s::text, %s::boolean, %s::timestamp, %s::date",
            [7, 0.1, "café", True, datetime.datetime(2013, 1, 2, 3, 4, 5, 600), datetime.date(2013, 1, 2)],
        )
        equal(
            cursor.fetchone(),
            (7, 0.1, "café", True, datetime.datetime(2013, 1, 2, 3, 4, 5, 600), datetime.date(2013, 1, 2)),
        )
        cursor.execute("SELECT CAST('12.50' AS DECIMAL(10, 2)) AS d, NULL::bigint AS n")
        equal(cursor.fetchone(), (decimal.Decimal("12.50"), None))
        cursor.execute("SELECT '2013-01-02T03:04:05Z'::timestamptz")
        utc = datetime.timezone.utc
        equal(cursor.fetchone()[0], datetime.datetime(2013, 1, 2, 3, 4, 5, tzinfo=utc))
        cursor.execute("SELECT %s::timestamptz = '2013-01-02T03:04:05Z'::timestamptz",
                       [datetime.datetime(2013, 1, 2, 3, 4, 5, tzinfo=utc)])
        equal(cursor.fetchone(), (True,))
        cursor.execute("SELECT %s::double precision", [decimal.Decimal("2.5")])
        equal(cursor.fetchone(), (2.5,))

    # More often than psycopg's threshold: prepared by name on the way.
    for number in range(12):
        rows = db.execute("SELECT %s + 1", [number], prepare=None).fetchall()
        equal(rows, [(number + 1,)])

    # Parts of a long answer.
    cursor = db.cursor()
    total = sum(row[0] for row in cursor.stream("SELECT value FROM generate_series(1, 5000)"))
    equal(total, 12502500)

    try:
        db.execute("SELECT nosuch FROM carriers")
        raise AssertionError("an unknown column is no error")
    except psycopg.errors.UndefinedColumn as error:
        equal(error.diag.statement_position, "8")
    try:
        db.execute("SELECT * FROM nothing")
        raise AssertionError("an unknown view is no error")
    except psycopg.errors.UndefinedTable:
        pass

    # Columns without a name have PostgreSQL's, be it twice.
    names = "SELECT count(*), max(flights), max(delay), flights + 1, carrier::varchar(2), 1::int"
    described = db.execute(names + " FROM carriers GROUP BY flights, carrier").description
    equal([column.name for column in described],
          ["count", "max", "max", "?column?", "carrier", "int4"])

    # What tools look up.
    rows = db.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_name = %s ORDER BY ordinal_position", ["carriers"]
    ).fetchall()
    equal(rows, [("carrier", "text"), ("flights", "bigint"), ("delay", "double precision")])
    equal(db.execute("SELECT 'carriers'::regclass::text IS NOT NULL").fetchone(), (True,))
    equal(db.execute("SELECT current_database(), current_schema(), current_user").fetchone(),
          ("any", "public", "somebody"))
    info = psycopg.types.TypeInfo.fetch(db, "int8")
    equal((info.oid, info.array_oid), (20, 1016))

    db.execute("CREATE MATERIALIZED VIEW busy AS SELECT carrier FROM carriers WHERE flights > 5")
    equal(db.execute("SELECT count(*) FROM busy").fetchone(), (0,))
    db.execute("DROP MATERIALIZED VIEW busy")

    pipeline_rows = []
    with db.pipeline():
        cursors = [db.execute("SELECT %s::bigint", [n]) for n in range(20)]
    equal([cursor.fetchone()[0] for cursor in cursors], list(range(20)))

print("all is well")
