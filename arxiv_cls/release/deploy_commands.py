"""The verbs of deployment: `deploy` and `api-url` (`make deploy` and `make api-url` call them)."""

from __future__ import annotations

import argparse
import shlex

from arxiv_cls.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    """Adds the verbs."""
    deploy = subparsers.add_parser(
        "deploy",
        help="run the endpoint's image on Google Cloud Run",
        description="Create or replace the Cloud Run service, wait until it answers, print its address.",
    )
    deploy.add_argument("model", metavar="MODEL", help="what it serves, from the Hub: user/name[@v1.2.0]")
    deploy.add_argument("--image", required=True, help="the `serve` image in a registry")
    _add_place(deploy)
    deploy.add_argument(
        "--serve-args",
        default="",
        metavar="ARGS",
        help='options of `arxiv-cls serve`, as one word: --serve-args="--engine int8"',
    )
    deploy.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable (repeatable)"
    )
    deploy.add_argument("--public", action="store_true", help="anybody may call it, without a token")
    deploy.set_defaults(run=run_deploy)

    url = subparsers.add_parser(
        "api-url",
        help="print the address of the deployed endpoint",
        description="Print the address of the deployed endpoint.",
    )
    _add_place(url)
    url.set_defaults(run=run_api_url)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", metavar="ID", help="Google Cloud project (default: the credentials')")
    parser.add_argument("--region", default="us-central1", help="(default: %(default)s)")
    parser.add_argument("--service", default="arxiv-cls", metavar="NAME", help="(default: %(default)s)")


def run_deploy(arguments: argparse.Namespace) -> None:
    """`arxiv-cls deploy MODEL --image IMAGE`."""
    from arxiv_cls.release.cloud_run import Deployment, check_model, deploy

    deployment = Deployment(
        image=arguments.image,
        arguments=(check_model(arguments.model), *shlex.split(arguments.serve_args)),
        environment=dict(_variable(word) for word in arguments.env),
        public=arguments.public,
    )
    print(deploy(deployment, project=arguments.project, region=arguments.region, service=arguments.service))


def run_api_url(arguments: argparse.Namespace) -> None:
    """`arxiv-cls api-url`."""
    from arxiv_cls.release.cloud_run import api_url

    print(api_url(project=arguments.project, region=arguments.region, service=arguments.service))


def _variable(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--env {word}: not a variable", hint="write --env NAME=VALUE")
    return name, value
