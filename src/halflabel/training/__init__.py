"""From a recipe and annotated pictures to a trained model, which goes on exactly where it was stopped.

It imports nothing, for the command line reads recipes without torch. What other rooms and programs use:

- `keys`: the keys of recipes, `read_keys`, `find_recipe`, `shipped_recipes`; without torch
- `recipe`: `Recipe`, `parse_recipe`
- `run`: `run_recipe`, `prepare_training`, `Trained`, and the names of what lies in the output folder
- `preparation`: `TrainingData`, `hide_known`, `make_datasets`
- `trainer`: `MultiLabelTrainer`, `make_trainer`
- `transfer`: `build_model`, `choose_trained`
- `features`: `cached_features`, `Views`, `Network`, `run_in_threads`, `keep_freed_memory`
- `cache`: `DEFAULT_FOLDER`, `hash_parts`, `hash_weights`
- `folds`: `cut_folds`, `out_of_fold_logits`
- `guesses`: `FeatureBasis`, `mean_log_loss`
"""
