//! Every supported shape of the chart, looked at by the API server.

use std::fs;

use crate::{
    kubectl::{Namespace, run},
    repository,
};

/// Asserts that the API server accepts every object of every shape, without a warning. Objects of
/// extensions that the cluster does not have are left out, and named.
pub(crate) fn are_accepted(namespace: &Namespace) {
    let known = namespace.kubectl(&["api-resources", "--no-headers"]);
    let kinds: Vec<_> = known.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let mut shapes: Vec<_> =
        fs::read_dir(repository("helm/lonja/ci")).unwrap().map(|file| file.unwrap().path()).collect();
    shapes.sort();
    for shape in shapes {
        let values = shape.display().to_string();
        let chart = std::env::var("LONJA_TEST_CHART")
            .unwrap_or_else(|_| repository("helm/lonja").display().to_string());
        let render = ["template", "shape", &chart, "--values", &values, "--set", "checkExtensions=false"];
        let rendered = namespace.helm(&render);
        assert!(rendered.success, "{values}: {}", rendered.stderr);
        let kind =
            |object: &&str| object.lines().find_map(|line| line.strip_prefix("kind: ")).map(str::to_owned);
        let objects: Vec<_> =
            rendered.stdout.split("\n---\n").filter(|object| kind(object).is_some()).collect();
        let is_known = |object: &&str| kind(object).is_some_and(|kind| kinds.contains(&kind.as_str()));
        let (accepted, left_out): (Vec<&str>, Vec<&str>) = objects.into_iter().partition(is_known);
        assert!(accepted.len() > 10, "{values}: {} objects", accepted.len());
        let manifest = accepted.join("\n---\n");
        let dry_run = ["-n", &namespace.name, "apply", "--dry-run=server", "-f", "-"];
        let answer = run("kubectl", &dry_run, Some(&manifest));
        assert!(answer.success && answer.stderr.is_empty(), "{values}: {}", answer.stderr);
        let mut left_out: Vec<_> = left_out.iter().filter_map(kind).collect();
        left_out.dedup();
        println!(
            "{}: {} objects accepted, left out {left_out:?}",
            values.rsplit('/').next().unwrap(),
            accepted.len()
        );
    }
}
