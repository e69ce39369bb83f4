"""Options of a benchmark part, as the command line would give them."""

import argparse

from benchmarks import options


def options_of(argv):
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.parse(parser, parser.parse_args(argv[1:]), argv)
