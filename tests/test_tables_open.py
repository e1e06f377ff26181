"""Any table opens with the tools that people have."""

import datasets
import duckdb
import pandas as pd
import pyarrow.dataset as ds
import pytest

from pipelines.write_tables import open_run_folder
from schemas import TABLES
from schemas.examples import example_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = open_run_folder(str(tmp_path_factory.mktemp("tables")))
    for table in TABLES.values():
        # A unit may have no rows, the first one too.
        for unit, rows in ((0, 0), (1, 3), (2, 3)):
            run.write_part(f"{table.name}/part-{unit:05d}.parquet", example_rows(table, rows, unit), table, {})
    return run.url


@pytest.mark.parametrize("table", TABLES)
def test_every_reader_sees_every_row(run, table):
    wanted = ds.dataset(f"{run}/{table}").to_table().to_pylist()
    assert len(wanted) == 6
    assert duckdb.sql(f"select count(*) from '{run}/{table}/*.parquet'").fetchall() == [(6,)]
    assert len(pd.read_parquet(f"{run}/{table}")) == 6
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{run}/{table}/*.parquet", split="train", cache_dir=run + "/.c"
    )
    assert loaded.num_rows == 6
    assert loaded[0].keys() == wanted[0].keys()


def test_pairs_are_queried_by_value(run):
    query = (
        f"select noun, mask.size[1] as height, box_xywh_px[3] as width from '{run}/pairs/*.parquet' where cosine > 0.2"
    )
    rows = duckdb.sql(query).fetchall()
    pairs = ds.dataset(f"{run}/pairs").to_table(filter=ds.field("cosine") > 0.2).to_pylist()
    assert sorted(rows) == sorted((row["noun"], row["height"], row["box_xywh_px"][2]) for row in pairs)
    assert 0 < len(rows) < 6
