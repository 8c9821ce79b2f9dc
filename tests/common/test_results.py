"""The numbers that the README prints are those of the run files."""

from solutions.make_results import BEGIN, END, README, RESULTS, table


def test_the_readmes_table_is_the_one_that_the_run_files_give():
    shown = README.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert shown == table()
    assert shown.count("\n") >= 1 + len(list(RESULTS.glob("*/*/result.json")))  # two lines of heading
