import sys
import textwrap


def install(folder, name, entry_point, code):
    """Lay out a distribution as pip does: a module, and its metadata beside it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[mlx_heads.objectives]\n{name} = {entry_point}\n")


def in_new_process(start, code, site):
    code = textwrap.dedent(f"import sys; sys.path.append({str(site)!r})\n") + textwrap.dedent(code)
    process = start([sys.executable, "-c", code], stdout=-1, stderr=-2)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output.splitlines()


def test_entry_points_of_other_distributions_register_once(tmp_path, start):
    install(
        tmp_path,
        "plug_module",
        "plug_module",
        """
        from mlx_heads import RegressionHead, mean_absolute_error, register_objective

        @register_objective("robust", "regression", loss=mean_absolute_error, priority=50)
        class RobustHead(RegressionHead):
            pass
        """,
    )
    install(
        tmp_path,
        "plug_function",
        "plug_function:register",
        """
        from mlx_heads import ClassificationHead, focal_loss, register_objective

        def register():
            print("called")
            register_objective("focal", "binary", loss=focal_loss, priority=1, gamma=5.0)(
                ClassificationHead
            )
        """,
    )
    lines = in_new_process(
        start,
        """
        import mlx_heads
        print("imported", "plug_module" in sys.modules)  # loaded on the first lookup
        print(mlx_heads.get_objective("regression").name)
        print(mlx_heads.get_objective("binary", "focal").options)
        print(mlx_heads.objectives("binary"))
        head = mlx_heads.get_objective("regression").build_head(4, 2)
        print(type(head).__name__, head.output_shape)
        """,
        tmp_path,
    )
    assert lines == [
        "imported False",
        "called",
        "robust",
        "{'gamma': 5.0}",
        "['cross_entropy', 'focal', 'asymmetric']",
        "RobustHead (2,)",
    ]


def test_a_broken_entry_point_is_named_at_every_lookup_and_leaves_nothing(tmp_path, start):
    install(
        tmp_path,
        "plug_broken",
        "plug_broken:register",
        """
        from mlx_heads import RegressionHead, huber, register_objective

        def register():
            register_objective("half", "regression", loss=huber)(RegressionHead)
            raise KeyError("weights")
        """,
    )
    lines = in_new_process(
        start,
        """
        import mlx_heads
        for _ in range(2):
            try:
                mlx_heads.get_objective("binary")
            except RuntimeError as error:
                print(error)
        registered = mlx_heads.registry._OBJECTIVES
        print(("regression", "half") in registered, ("regression", "mse") in registered)
        """,
        tmp_path,
    )
    message = (
        "entry point 'plug_broken' = 'plug_broken:register' of distribution 'plug_broken' failed "
        "to register its objectives: KeyError: 'weights'. Fix or uninstall that distribution"
    )
    assert lines == [message, message, "False True"]
